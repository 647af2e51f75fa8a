package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/auth"
	"pmxfs/internal/store"
)

const userUsage = `Usage: pmxstore user add DIR NAME [--password-file FILE] [--rights read|write|admin] [--group TYPE/ID]...
       pmxstore user passwd DIR NAME [--password-file FILE]
       pmxstore user token DIR NAME TOKEN [--expires 90d] [--remove]
       pmxstore user remove DIR NAME
       pmxstore user list DIR [--json]

Keeps the users of the store in DIR, who may use it over https (see 'pmxstore serve --help'). Rights are to the whole store,
or with --group to these groups alone: nothing else then exists for the user. Rights are
  read    to list and read (the default)
  write   to read, and to add backups
  admin   everything that the server offers; today the same as write
TYPE/ID=RIGHTS gives a group rights of its own. Groups in namespaces have paths like ns/a/vm/100.

The password is the first line of FILE ('-' is standard input), or in the environment's PMX_PASSWORD, or asked for on the
terminal. A token is a secret of its own for a script, with its user's rights; it is shown once, and clients log in with it
as NAME!TOKEN. A server obeys at once: who is removed, or has another password, is also disconnected.

Examples:
  pmxstore user add /srv/backups alice --rights write
  pmxstore user add /srv/backups web --password-file web.pw --rights write --group host/web1 --group vm/100=read
  pmxstore user token /srv/backups alice nightly --expires 365d
  pmxstore user list --json /srv/backups
`

// userCommands by name: what is done with DIR and the arguments behind it, of
// which there are as many.
var userCommands = map[string]struct {
	args int
	run  func(ctx context.Context, e *env, u *auth.Users, s *userSettings, args []string) error
}{
	"add":    {1, addUser},
	"passwd": {1, setPassword},
	"token":  {2, changeToken},
	"remove": {1, removeUser},
	"list":   {0, listUsers},
}

// userSettings are the flags of the user commands.
type userSettings struct {
	passwordFile, rights, expires string
	groups                        []string
	remove, json                  bool
}

func runUser(ctx context.Context, e *env, args []string) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	command, ok := userCommands[name]
	flags := newFlags("pmxstore user")
	s := &userSettings{}
	if !ok || name == "add" || name == "passwd" {
		flags.StringVar(&s.passwordFile, "password-file", "", "add, passwd: a file whose first line is the password; - is standard input")
	}
	if !ok || name == "add" {
		flags.StringVar(&s.rights, "rights", string(auth.Read), "add: read, write or admin")
		flags.StringArrayVar(&s.groups, "group", nil, "add: give rights to this group only, TYPE/ID or TYPE/ID=RIGHTS; may be given several times")
	}
	if !ok || name == "token" {
		flags.StringVar(&s.expires, "expires", "", "token: when it ends, as 90d, 12h or 2026-11-23T07:04:44Z; the default is never")
		flags.BoolVar(&s.remove, "remove", false, "token: take it away")
	}
	if !ok || name == "list" {
		flags.BoolVar(&s.json, "json", false, "list: print JSON")
	}
	if !ok {
		done, err := cli.Parse(flags, flags.Name(), userUsage, args, e.stdout)
		if done || err != nil {
			return err
		}
		return cli.Usagef("pmxstore user: say what is to be done: add, passwd, token, remove or list")
	}
	if done, err := parse(flags, e, userUsage, args[1:], command.args+1, command.args+1); done || err != nil {
		return err
	}
	dir := flags.Arg(0)
	opened, err := store.Open(dir, store.Config{ReadOnly: true}) // that it is one
	if err != nil {
		return err
	}
	opened.Close()
	return command.run(ctx, e, auth.Open(dir), s, flags.Args()[1:])
}

func addUser(ctx context.Context, e *env, u *auth.Users, s *userSettings, args []string) error {
	if _, err := auth.ParseRights(s.rights); err != nil {
		return &cli.UsageError{Err: err}
	}
	if _, err := auth.ParseGroups(s.groups, auth.Rights(s.rights)); err != nil {
		return &cli.UsageError{Err: err}
	}
	if err := auth.CheckName(args[0]); err != nil { // before a password is asked for
		return &cli.UsageError{Err: err}
	}
	password, err := cli.NewPassword(ctx, s.passwordFile, e.stdin)
	if err != nil {
		return err
	}
	if err := u.Add(args[0], password, auth.Rights(s.rights), s.groups); err != nil {
		return hint(err, "'pmxstore user passwd' changes a password; for other rights remove the user first")
	}
	fmt.Fprintf(e.stdout, "added %s\n", args[0])
	return nil
}

func setPassword(ctx context.Context, e *env, u *auth.Users, s *userSettings, args []string) error {
	if _, err := u.Identity(args[0]); err != nil {
		return hint(err, "'pmxstore user list' says who is there")
	}
	password, err := cli.NewPassword(ctx, s.passwordFile, e.stdin)
	if err != nil {
		return err
	}
	if err := u.SetPassword(args[0], password); err != nil {
		return hint(err, "")
	}
	fmt.Fprintf(e.stdout, "changed the password of %s\n", args[0])
	return nil
}

func changeToken(_ context.Context, e *env, u *auth.Users, s *userSettings, args []string) error {
	if s.remove {
		if err := u.RemoveToken(args[0], args[1]); err != nil {
			return hint(err, "'pmxstore user list' says which there are")
		}
		fmt.Fprintf(e.stdout, "removed %s!%s\n", args[0], args[1])
		return nil
	}
	expires, err := parseExpiry(s.expires, time.Now())
	if err != nil {
		return err
	}
	secret, err := u.AddToken(args[0], args[1], expires)
	if err != nil {
		return hint(err, "'pmxstore user list' says which there are; --remove takes one away")
	}
	fmt.Fprintln(e.stdout, secret)
	fmt.Fprintf(e.stderr, "this is the secret of %s!%s; it is kept nowhere and will not be shown again\n", args[0], args[1])
	return nil
}

// parseExpiry reads a time, or how long from now on; empty is never.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		if !t.After(now) {
			return t, cli.Usagef("--expires: %s is over", s)
		}
		return t, nil
	}
	days, isDays := strings.CutSuffix(s, "d")
	unit := time.Duration(1)
	if isDays {
		s, unit = days+"h", 24
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > 100*365*24*time.Hour/unit {
		return time.Time{}, cli.Usagef("--expires: %q is neither a time nor how long, such as 90d or 12h", s)
	}
	return now.Add(d * unit).UTC().Truncate(time.Second), nil
}

func removeUser(_ context.Context, e *env, u *auth.Users, _ *userSettings, args []string) error {
	if err := u.Remove(args[0]); err != nil {
		return hint(err, "'pmxstore user list' says who is there")
	}
	fmt.Fprintf(e.stdout, "removed %s\n", args[0])
	return nil
}

// hint gives an error a hint that fits users, where the one of its kind is about
// backups.
func hint(err error, text string) error { return &cli.HintError{Err: err, Hint: text} }

// userRow is a user as --json prints it.
type userRow struct {
	Name   string                 `json:"name"`
	Rights auth.Rights            `json:"rights,omitempty"` // to the whole store
	Groups map[string]auth.Rights `json:"groups,omitempty"` // or to these alone
	Tokens []tokenRow             `json:"tokens,omitempty"`
}

type tokenRow struct {
	Name    string     `json:"name"`
	Expires *time.Time `json:"expires,omitempty"`
}

func listUsers(_ context.Context, e *env, u *auth.Users, s *userSettings, _ []string) error {
	users, err := u.List()
	if err != nil {
		return err
	}
	rows := []userRow{}
	for _, user := range users {
		r := userRow{Name: user.Name, Rights: user.Rights, Groups: user.Groups}
		if len(user.Groups) > 0 {
			r.Rights = ""
		}
		for _, t := range user.Tokens {
			r.Tokens = append(r.Tokens, tokenRow{t.Name, t.Expires})
		}
		rows = append(rows, r)
	}
	if s.json {
		return printJSON(e, rows)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "USER\tRIGHTS\tTOKENS")
	for i, r := range rows {
		rights := string(r.Rights)
		if len(r.Groups) > 0 {
			rights = strings.Join(users[i].Groups.Strings(), " ")
		}
		tokens := []string{}
		for _, t := range r.Tokens {
			text := t.Name
			if t.Expires != nil {
				text += " until " + t.Expires.Format(time.RFC3339)
			}
			tokens = append(tokens, text)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, rights, strings.Join(tokens, ", "))
	}
	return w.Flush()
}
