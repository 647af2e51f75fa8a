package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/auth"
	"pmxfs/internal/fault"
)

// load reads a configuration file into c. What flags said counts more.
func (c *serveConfig) load(path string, flags *pflag.FlagSet) error {
	type said struct {
		flag  *pflag.Flag
		value string
		list  []string
	}
	var given []said
	flags.Visit(func(f *pflag.Flag) {
		s := said{flag: f, value: f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			s.list = list.GetSlice()
		}
		given = append(given, s)
	})
	meta, err := toml.DecodeFile(path, c)
	var where toml.ParseError
	if errors.As(err, &where) {
		return fault.Newf(fault.Invalid, "read configuration", path, "%s", strings.TrimSpace(where.ErrorWithPosition()))
	} else if err != nil {
		return fault.New(fault.KindOf(err), "read configuration", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fault.Newf(fault.Invalid, "read configuration", path, "there is no setting %q", unknown[0].String())
	}
	for _, s := range given {
		if list, ok := s.flag.Value.(pflag.SliceValue); ok {
			err = list.Replace(s.list)
		} else {
			err = s.flag.Value.Set(s.value)
		}
		if err != nil {
			return fmt.Errorf("--%s: %w", s.flag.Name, err)
		}
	}
	return nil
}

// maxStores bounds the stores of a server: to log in is to be tried at each.
const maxStores = 64

// complete checks c and fills in what follows from the rest. args is DIR, unless a
// file names the stores.
func (c *serveConfig) complete(args []string) error {
	switch {
	case len(args) == 1 && len(c.Stores) > 0:
		return cli.Usagef("both %s and the configuration name stores", args[0])
	case len(args) == 1:
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		if c.Name == "" {
			c.Name = filepath.Base(dir)
		}
		c.Stores = map[string]*storeConfig{c.Name: {Path: args[0]}}
		if len(c.Listen) == 0 {
			c.Listen = []string{"unix:" + filepath.Join(dir, ".pmx.sock")}
		}
	case len(c.Stores) == 0:
		return cli.Usagef("which store is to be served? Give its folder, or a --config that names some")
	case c.Name != "":
		return cli.Usagef("--name is for the store of a DIR; the configuration names its own")
	}
	if len(c.Stores) > maxStores {
		return cli.Usagef("%d stores; a server has at most %d", len(c.Stores), maxStores)
	}
	listens := len(c.Listen) > 0
	https := false
	for _, spec := range c.Listen {
		if isHTTPS(spec) {
			https = true
		} else if len(c.Stores) > 1 {
			return cli.Usagef("listen %q: it knows no store's name, and there are several: put it with one of them", spec)
		}
	}
	for name, s := range c.Stores {
		switch {
		case https && !goodName(name):
			return cli.Usagef("the store's name %q is none: it has letters, digits and . _ - (--name gives another)", name)
		case s.Path == "":
			return cli.Usagef("store %s: its path is missing", name)
		}
		for _, spec := range s.Listen {
			if isHTTPS(spec) {
				return cli.Usagef("store %s: listen %q serves all stores: put it at the top", name, spec)
			}
			listens = true
		}
		s.ReadOnly = s.ReadOnly || c.ReadOnly
		if len(c.Stores) == 1 && c.State == "" {
			c.State = s.Path
		}
	}
	switch {
	case !listens:
		return cli.Usagef("nothing listens: set listen")
	case (c.Cert == "") != (c.Key == ""):
		return cli.Usagef("a certificate needs its key, and a key its certificate: give both --cert and --key")
	case https && c.State == "":
		return cli.Usagef("with several stores the server needs a folder of its own for its certificate and the key of its tickets: set state")
	}
	return nil
}

// goodName reports whether a store's name can be a part of a path.
func goodName(name string) bool {
	ok := name != "" && len(name) <= 64 && strings.Trim(name, ".") != ""
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	}
	return ok
}

// usersOf returns the users that the configuration has for each store.
func (c *serveConfig) usersOf() (map[string][]*auth.User, error) {
	by := map[string][]*auth.User{}
	for _, u := range c.Users {
		if u.PasswordFile == "" {
			return nil, cli.Usagef("user %q: password-file is missing", u.Name)
		}
		password, err := cli.ReadPassword(u.PasswordFile, nil)
		if err != nil {
			return nil, err
		}
		if u.Rights == "" {
			u.Rights = string(auth.Read)
		}
		user, err := auth.NewUser(u.Name, password, auth.Rights(u.Rights), u.Groups)
		if err != nil {
			return nil, err
		}
		stores := u.Stores
		if len(stores) == 0 {
			for name := range c.Stores {
				stores = append(stores, name)
			}
		}
		for _, name := range stores {
			switch {
			case c.Stores[name] == nil:
				return nil, cli.Usagef("user %s: there is no store %q", u.Name, name)
			case slices.ContainsFunc(by[name], func(have *auth.User) bool { return have.Name == u.Name }):
				return nil, cli.Usagef("user %s is named twice for store %s", u.Name, name)
			}
			by[name] = append(by[name], user)
		}
	}
	return by, nil
}
