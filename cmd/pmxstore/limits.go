package main

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// limitConfig is what peers may do to the server and use of it. Zero is no limit,
// but for memory.
type limitConfig struct {
	MaxConnections int           `toml:"max-connections"`
	MaxPerAddress  int           `toml:"max-connections-per-address"`
	MaxRequests    int           `toml:"max-requests"`
	Memory         cli.Size      `toml:"memory"`
	ConnMemory     cli.Size      `toml:"memory-per-connection"`
	Handshake      time.Duration `toml:"handshake-timeout"`
	Idle           time.Duration `toml:"idle-timeout"`
	Stall          time.Duration `toml:"stall-timeout"`
	Grace          time.Duration `toml:"grace"`
	Rate           cli.Size      `toml:"rate"`
	UploadVolume   cli.Size      `toml:"upload-volume"`
	MinFree        room          `toml:"min-free"`
}

// flags adds the flags, which set l.
func (l *limitConfig) flags(f *pflag.FlagSet) {
	l.Memory, l.ConnMemory = 1<<30, server.DefaultMemory
	f.IntVar(&l.MaxConnections, "max-connections", 1000, "how many connections may be open; 0: any number")
	f.IntVar(&l.MaxPerAddress, "max-connections-per-address", 100, "how many of them from one address, or IPv6 network (/64); 0: any number")
	f.IntVar(&l.MaxRequests, "max-requests", 0, "how many requests of a connection are worked on at once; 0: all that the protocol allows, 255")
	f.Var(&l.Memory, "memory", "how much memory the data of all connections together may take, at least 256M; 0: any amount")
	f.Var(&l.ConnMemory, "memory-per-connection", "how much of it the uploads of one connection may take, at least 64M")
	f.DurationVar(&l.Handshake, "handshake-timeout", time.Minute, "how long a connection may take to ask for something; 0: for ever")
	f.DurationVar(&l.Idle, "idle-timeout", 15*time.Minute, "how long a client may send nothing while the server owes it nothing; ours send something every 5 seconds; 0: for ever")
	f.DurationVar(&l.Stall, "stall-timeout", time.Minute, "how long a packet may take, in either direction, beyond what a link of 16 KiB/s needs; 0: for ever")
	f.DurationVar(&l.Grace, "grace", 5*time.Second, "how long backups may go on once the server was told to end")
	f.Var(&l.Rate, "rate", "how many bytes a second all connections together may send, and receive; 0: any number")
	f.Var(&l.UploadVolume, "upload-volume", "how much each user may upload in a day (UTC), counted from the server's start; 0: any amount")
	f.Var(&l.MinFree, "min-free", "how much of a store's file system to keep free, as a size or in percent: below it uploads are refused and reading goes on")
}

// check checks what flags and file said.
func (l *limitConfig) check() error {
	switch {
	case l.MaxConnections < 0 || l.MaxPerAddress < 0 || l.MaxRequests < 0 || l.MaxRequests > 255:
		return cli.Usagef("the --max-... flags take no negative number, and --max-requests none above 255")
	case l.Handshake < 0 || l.Idle < 0 || l.Stall < 0 || l.Grace < 0:
		return cli.Usagef("no timeout is negative")
	case l.Memory != 0 && l.Memory < server.MinSharedMemory:
		return cli.Usagef("--memory: %s is less than %s", &l.Memory, cli.FormatSize(server.MinSharedMemory))
	case l.ConnMemory < server.MinMemory:
		return cli.Usagef("--memory-per-connection: %s is less than %s, which clients rely on", &l.ConnMemory, cli.FormatSize(server.MinMemory))
	}
	return nil
}

// limits returns the limits for the connections of a store.
func (l *limitConfig) limits(s *store.Store) (server.Limits, error) {
	out := server.Limits{Handshake: l.Handshake, Idle: l.Idle, Stall: l.Stall, Requests: l.MaxRequests, MinFree: uint64(l.MinFree.bytes)}
	if l.MinFree.percent > 0 {
		total, _, _, err := s.Status()
		if err != nil {
			return out, err
		}
		out.MinFree = uint64(float64(total) * l.MinFree.percent / 100)
	}
	return out, nil
}

// A room is a size, or a percentage of a file system.
type room struct {
	bytes   cli.Size
	percent float64
}

// Set implements pflag.Value.
func (r *room) Set(text string) error {
	if num, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return cli.Usagef("%q is no percentage", text)
		}
		*r = room{percent: n}
		return nil
	}
	*r = room{}
	return r.bytes.Set(text)
}

// UnmarshalText reads it in a configuration file.
func (r *room) UnmarshalText(text []byte) error { return r.Set(string(text)) }

// Type implements pflag.Value.
func (r *room) Type() string { return "SIZE|PERCENT%" }

// String returns what Set takes.
func (r *room) String() string {
	if r.percent > 0 {
		return strconv.FormatFloat(r.percent, 'g', -1, 64) + "%"
	}
	return r.bytes.String()
}

// refuse tells a client whose connection is one too many why it ends, where a
// greeting would be. It does not wait: the socket has room for so little.
func refuse(conn net.Conn, why error) {
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	conn.Write(wire.AppendPacket(nil, 0, wire.TypeError, wire.FromError(why).Append(nil)))
}
