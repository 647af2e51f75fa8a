package archive

// The attributes of chattr(1), as the kernel's FS_IOC_GETFLAGS numbers them,
// and the bits of Meta.Flags that stand for them.
func chattr() [10]struct {
	attr uint32
	flag uint64
} {
	return [10]struct {
		attr uint32
		flag uint64
	}{
		{0x20, FlagAppend},
		{0x80, FlagNoAtime},
		{0x4, FlagCompr},
		{0x800000, FlagNoCow},
		{0x40, FlagNoDump},
		{0x10000, FlagDirSync},
		{0x10, FlagImmutable},
		{0x8, FlagSync},
		{0x400, FlagNoCompr},
		{0x20000000, FlagProjInherit},
	}
}

// ChattrToFlags returns the bits of Meta.Flags for attributes of FS_IOC_GETFLAGS.
// Attributes that say what a file system did, and not what it was told, are not
// among them.
func ChattrToFlags(attr uint32) (flags uint64) {
	for _, f := range chattr() {
		if attr&f.attr != 0 {
			flags |= f.flag
		}
	}
	return flags
}

// FlagsToChattr returns the attributes for FS_IOC_SETFLAGS, and the mask of all
// that can be among them.
func FlagsToChattr(flags uint64) (attr, mask uint32) {
	for _, f := range chattr() {
		mask |= f.attr
		if flags&f.flag != 0 {
			attr |= f.attr
		}
	}
	return attr, mask
}
