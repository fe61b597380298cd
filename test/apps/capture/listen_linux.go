package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// bufferBytes is how much the kernel keeps for a listener that is behind.
const bufferBytes = 64 << 20

// listen hands all IP packets of this network namespace to c until ctx ends. It calls ready once none is missed.
func listen(ctx context.Context, c *counter, ready func()) error {
	all := int(htons(unix.ETH_P_ALL))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return fmt.Errorf("packet socket: %w (it needs CAP_NET_RAW)", err)
	}
	defer unix.Close(socket)
	// The forced size needs CAP_NET_ADMIN; without it the machine's limit holds.
	if unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes) != nil {
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferBytes); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
	}
	// A short timeout lets the loop see the end of ctx.
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	ready()
	// Segments are joined on their way through virtual interfaces, up to 64 KiB and more.
	buffer := make([]byte, 1<<18)
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		switch {
		case err == nil:
			c.packet(buffer[:n])
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		default:
			return fmt.Errorf("packet socket: %w", err)
		}
	}
	statistics, err := unix.GetsockoptTpacketStats(socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	c.Dropped = int64(statistics.Drops)
	return nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }
