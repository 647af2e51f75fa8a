// Farlink is a proxy that delays and limits what passes (see package farlink),
// for benchmarks and for trying things out by hand:
//
//	farlink --listen unix:/tmp/far --to unix:/run/store --delay 100ms --rate 1Gbit
//
// It prints the address that it listens on once it does, and ends with SIGINT or
// SIGTERM.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"pmxfs/internal/farlink"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "farlink:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := pflag.NewFlagSet("farlink", pflag.ContinueOnError)
	listen := f.String("listen", "", "where to listen: HOST:PORT or unix:PATH")
	to := f.String("to", "", "where what comes is handed on to")
	delay := f.Duration("delay", 0, "the round trip, half of it each way")
	rateText := f.String("rate", "", "the most that passes a second, each way, as 1Gbit, 100Mbit or in bytes; none: no limit")
	if err := f.Parse(args); err != nil {
		return err
	}
	rate, err := parseRate(*rateText)
	if err != nil {
		return err
	}
	network, address, err := farlink.Split(*listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	toNetwork, toAddress, err := farlink.Split(*to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	link := &farlink.Link{RoundTrip: *delay, Rate: rate}
	return link.Serve(ctx, ln, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, toNetwork, toAddress)
	})
}

// parseRate returns bytes a second; 0 for no limit.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits, unit := s, int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"Gbit", 125_000_000}, {"Mbit", 125_000}, {"Kbit", 125}} {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = d, u.bytes
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("--rate: %q is no rate such as 1Gbit or 12500000", s)
	}
	return n * unit, nil
}
