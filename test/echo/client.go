package echo

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// streamMessages is the number of messages that a GRPCStream call sends and gets.
const streamMessages = 3

// DialFunc is that of a net.Dialer, or of a network namespace.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Client calls backends. It never retries: a call is one request, or an error.
type Client struct {
	dial         DialFunc
	http1, http2 *http.Transport
}

// ClientOptions say how a client connects.
type ClientOptions struct {
	Dial DialFunc
	// KeepAlive lets HTTP calls share connections; otherwise each has one of its own.
	KeepAlive bool
}

// NewClient returns a client.
func NewClient(o ClientOptions) *Client {
	c := &Client{dial: o.Dial}
	transport := func(set func(*http.Protocols)) *http.Transport {
		p := new(http.Protocols)
		set(p)
		return &http.Transport{
			DialContext: o.Dial, Protocols: p, DisableKeepAlives: !o.KeepAlive, DisableCompression: true, MaxIdleConnsPerHost: 1024,
		}
	}
	c.http1 = transport(func(p *http.Protocols) { p.SetHTTP1(true) })
	c.http2 = transport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	return c
}

// Close closes idle connections.
func (c *Client) Close() {
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
}

// Request is what to send. Only Address is needed.
type Request struct {
	// Address is an IP address and port.
	Address string
	// Method and Path of an HTTP request; GET and / unless given. The path may have a query.
	Method, Path string
	// Host of an HTTP request or authority of a gRPC call; Address unless given.
	Host string
	// Header of an HTTP request or metadata of a gRPC call.
	Header map[string]string
	// Body of an HTTP request, message or line.
	Body string
}

// Response is what came back.
type Response struct {
	// Answer of the backend; nil when something else answered.
	*Answer
	// Status and Header of an HTTP response.
	Status int
	Header http.Header
	// Text is an HTTP response's body that is not a backend's answer, such as a proxy's.
	Text string
}

// Call sends one request. An HTTP response of any status is no error; for gRPC a status that is not OK is one.
func (c *Client) Call(ctx context.Context, p Protocol, r Request) (*Response, error) {
	switch p {
	case HTTP1:
		return c.callHTTP(ctx, own(c.http1), r)
	case HTTP2:
		return c.callHTTP(ctx, own(c.http2), r)
	case GRPC, GRPCStream:
		return c.callGRPC(ctx, p, r)
	case WebSocket:
		return c.callWebSocket(ctx, r)
	case TCP, Greeting:
		return c.callTCP(ctx, p, r)
	}
	return nil, fmt.Errorf("unknown protocol %q", p)
}

// own returns a transport for one call. Those without keep-alive have one of their own: a shared one gives two calls at the same time the same HTTP/2
// connection, and closes it after the first.
func own(transport *http.Transport) *http.Transport {
	if transport.DisableKeepAlives {
		return transport.Clone()
	}
	return transport
}

func (c *Client) callHTTP(ctx context.Context, transport *http.Transport, r Request) (*Response, error) {
	// A connection that turns out to be of no use before anything was written to it does not count.
	var attempts atomic.Int32
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { attempts.Add(1) }})
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	// The body is hidden behind a plain reader: one that could be rewound would be sent again.
	var body io.Reader
	if r.Body != "" {
		body = io.MultiReader(strings.NewReader(r.Body))
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.Address+"/"+strings.TrimPrefix(r.Path, "/"), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = int64(len(r.Body))
	}
	req.Host = r.Host
	for k, v := range r.Header {
		req.Header.Set(k, v)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("status %d, then: %w", resp.StatusCode, err)
	}
	// Go's transport sends a request again when a kept connection turns out to be dead.
	if n := attempts.Load(); n > 1 {
		return nil, fmt.Errorf("sent %d times: the first connection was closed under the request", n)
	}
	return newResponse(resp, text), nil
}

func newResponse(resp *http.Response, text []byte) *Response {
	result := &Response{Status: resp.StatusCode, Header: resp.Header}
	var a Answer
	if json.Unmarshal(text, &a) == nil && a.Name != "" {
		result.Answer = &a
	} else {
		result.Text = string(text)
	}
	return result
}

func (c *Client) callGRPC(ctx context.Context, p Protocol, r Request) (*Response, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, "tcp", address) }),
		grpc.WithDisableRetry(),
	}
	if r.Host != "" {
		options = append(options, grpc.WithAuthority(r.Host))
	}
	conn, err := grpc.NewClient("passthrough:///"+r.Address, options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(r.Header))
	client := grpc_testing.NewTestServiceClient(conn)
	payload := &grpc_testing.Payload{Body: []byte(r.Body)}
	if p == GRPCStream {
		return streamGRPC(ctx, client, payload)
	}
	var header metadata.MD
	resp, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: payload}, grpc.Header(&header))
	if err != nil {
		return nil, err
	}
	return decode(resp.GetPayload().GetBody(), http.Header(header))
}

// streamGRPC sends each message only after the answer to the one before, so that both directions are seen to flow.
func streamGRPC(ctx context.Context, client grpc_testing.TestServiceClient, payload *grpc_testing.Payload) (*Response, error) {
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return nil, err
	}
	var last *grpc_testing.StreamingOutputCallResponse
	for range streamMessages {
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload}); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if last, err = stream.Recv(); err != nil {
			return nil, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the stream did not end well: %w", err)
	}
	header, err := stream.Header()
	if err != nil {
		return nil, err
	}
	return decode(last.GetPayload().GetBody(), http.Header(header))
}

func (c *Client) callWebSocket(ctx context.Context, r Request) (*Response, error) {
	dialer := websocket.Dialer{NetDialContext: c.dial}
	header := http.Header{}
	for k, v := range r.Header {
		header.Set(k, v)
	}
	if r.Host != "" {
		header.Set("Host", r.Host)
	}
	conn, resp, err := dialer.DialContext(ctx, "ws://"+r.Address+"/"+strings.TrimPrefix(r.Path, "/"), header)
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%w: %s", err, resp.Status)
		}
		return nil, err
	}
	defer conn.Close()
	if err := setDeadline(ctx, conn.NetConn()); err != nil {
		return nil, err
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(r.Body)); err != nil {
		return nil, err
	}
	_, text, err := conn.ReadMessage()
	if err != nil {
		return nil, err
	}
	return decode(text, resp.Header)
}

func (c *Client) callTCP(ctx context.Context, p Protocol, r Request) (*Response, error) {
	conn, err := c.dial(ctx, "tcp", r.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := setDeadline(ctx, conn); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(conn)
	if p == Greeting {
		if _, err := lines.ReadBytes('\n'); err != nil {
			return nil, fmt.Errorf("no greeting: %w", err)
		}
	}
	body := r.Body
	if body == "" {
		body = "echo " + rand.Text()
	}
	if _, err := fmt.Fprintln(conn, body); err != nil {
		return nil, err
	}
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	resp, err := decode(text, nil)
	if err == nil && resp.Body != body {
		err = fmt.Errorf("sent %q, echoed %q", body, resp.Body)
	}
	return resp, err
}

// setDeadline bounds what has no context of its own.
func setDeadline(ctx context.Context, c net.Conn) error {
	if deadline, ok := ctx.Deadline(); ok {
		return c.SetDeadline(deadline)
	}
	return c.SetDeadline(time.Now().Add(time.Minute))
}

func decode(text []byte, header http.Header) (*Response, error) {
	var a Answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("not a backend's answer: %w", err)
	}
	return &Response{Answer: &a, Status: http.StatusOK, Header: header}, nil
}
