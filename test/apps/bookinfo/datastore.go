package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// The data store speaks lines over TCP; the client speaks first:
//
//	GET ratings/0      VALUE {"Reader One":5,"Reader Two":4}
//	GET ratings/1      NONE
//	anything else      ERROR unknown command
const (
	valueReply = "VALUE "
	noneReply  = "NONE"
)

// storeTimeout bounds a look-up, and how long the data store waits for a client's next line.
const storeTimeout = 5 * time.Second

func runDatastore(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("datastore")
	data := flags.String("data", ":6300", "`address` on which the data store listens; -listen has probes and counts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *data)
	if err != nil {
		return fmt.Errorf("datastore: %w", err)
	}
	var both sync.WaitGroup
	var storeErr, httpErr error
	both.Go(func() { storeErr = serveStore(ctx, s, listener) })
	both.Go(func() { httpErr = s.serve(ctx, s.routes()) })
	both.Wait()
	return errors.Join(storeErr, httpErr)
}

// serveStore answers connections until ctx ends and the connections that it has are done.
func serveStore(ctx context.Context, s *service, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("datastore: %w", err)
		}
		connections.Go(func() { s.answer(connection) })
	}
}

// answer serves one connection until the client closes it or stays silent.
func (s *service) answer(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewReaderSize(connection, 4096)
	for {
		if connection.SetDeadline(time.Now().Add(storeTimeout)) != nil {
			return
		}
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		s.count(false)
		if _, err := io.WriteString(connection, storeReply(strings.TrimSpace(string(line)))+"\n"); err != nil {
			return
		}
	}
}

func storeReply(line string) string {
	key, isGet := strings.CutPrefix(line, "GET ")
	switch {
	case !isGet:
		return "ERROR unknown command"
	case key == "ratings/"+bookID:
		return valueReply + `{"Reader One":5,"Reader Two":4}`
	default:
		return noneReply
	}
}

// lookUp asks the data store at address for key, on a connection of its own.
func lookUp(ctx context.Context, address, key string) (value string, found bool, err error) {
	if strings.ContainsAny(key, "\r\n") {
		return "", false, fmt.Errorf("data store: key %q has a line break", key)
	}
	deadline := time.Now().Add(storeTimeout)
	dialer := net.Dialer{Deadline: deadline}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", false, fmt.Errorf("data store: %w", err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(deadline); err != nil {
		return "", false, fmt.Errorf("data store: %w", err)
	}
	if _, err := fmt.Fprintf(connection, "GET %s\n", key); err != nil {
		return "", false, fmt.Errorf("data store: %w", err)
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return "", false, fmt.Errorf("data store: reading %s: %w", key, err)
	}
	line = strings.TrimSuffix(line, "\n")
	if line == noneReply {
		return "", false, nil
	}
	value, found = strings.CutPrefix(line, valueReply)
	if !found {
		return "", false, fmt.Errorf("data store: GET %s: %s", key, line)
	}
	return value, true, nil
}
