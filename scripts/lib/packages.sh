# Sourced by the other scripts: installs the Debian packages whose commands are missing.

# need_packages COMMAND:PACKAGE... installs each PACKAGE whose COMMAND is not found.
need_packages() {
	local missing=() pair
	for pair in "$@"; do
		command -v "${pair%%:*}" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
	done
	[ ${#missing[@]} = 0 ] && return
	echo "Installing what is missing: ${missing[*]}"
	[ "$(id -u)" = 0 ] || { echo "not root: run 'sudo apt-get install ${missing[*]}' first" >&2; return 1; }
	apt-get install -y -q "${missing[@]}" >/dev/null 2>&1 && return
	# A machine that has never asked for the package lists has none.
	apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}" >/dev/null
}
