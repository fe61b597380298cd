package xds

import (
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// limit is a bound that a proxy has run into. What is over it is refused or delayed, for this proxy alone; its stream goes on.
type limit uint8

const (
	// limitAsked: it asks for more destinations than a proxy may; those beyond get an answer that says that there is none.
	limitAsked limit = iota
	// limitNames: it subscribes to, or announces, more names of a type than a proxy may; those beyond are not looked at.
	limitNames
	// limitRate: it sends more than it may; what it sends is read later.
	limitRate
	// limitRejections: it refuses more than it may; what is sent to it is sent later.
	limitRejections
	// limitLearned: it asks for so many destinations that it seems to try them out; its workload's other pods learn none of them.
	limitLearned
	limits
)

func (l limit) String() string {
	return [...]string{"asked", "names", "rate", "rejections", "learned"}[l]
}

// consequence is what a log says of it.
func (l limit) consequence() string {
	return [...]string{
		"it asks for more destinations than a proxy may hold: those beyond are refused, those that it has go on working",
		"it subscribes to more names than a proxy may: those beyond are not answered",
		"it sends more than a proxy may: what it sends is read later",
		"it refuses more than a proxy may: what it is sent comes later",
		"it asks for many destinations at once: the other pods of its workload learn none of them",
	}[l]
}

const (
	// A request costs 1, and 1 more for each 512 bytes. Envoy sends one for each acknowledgement and each destination that it
	// asks about; the burst is what a proxy says that announces all it may hold.
	requestUnit  = 512
	requestRate  = 500 // per second
	requestBurst = 10_000
	// openingCost is what a stream costs by itself.
	openingCost = 100
	// A rejection costs the size of the response, which will be sent again in parts to find out what was wrong with it.
	rejectionRate  = 1 << 20 // bytes per second
	rejectionBurst = 32 << 20
	minRejection   = 16 << 10
	// Log lines that a proxy causes at will.
	lineRate, lineBurst = 1, 10
	// maxMessage bounds what is kept and logged of Envoy's text about a rejection, in bytes.
	maxMessage = 2 << 10
)

// bucket is a token bucket that may be overdrawn: what it is asked for is always given, with the time that has to pass first.
type bucket struct {
	rate, burst float64
	spent       float64
	at          time.Time
}

// take takes n and returns how long to wait; zero while there is some left.
func (b *bucket) take(n float64, now time.Time) time.Duration {
	if !b.at.IsZero() {
		b.spent = max(0, b.spent-b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	b.spent += n
	if b.spent <= b.burst {
		return 0
	}
	return time.Duration((b.spent - b.burst) / b.rate * float64(time.Second))
}

// allow takes one if there is one.
func (b *bucket) allow(now time.Time) bool {
	if b.take(1, now) == 0 {
		return true
	}
	b.spent--
	return false
}

// allowance is what a pod may do, on its stream and on those that follow: opening another one gains nothing.
type allowance struct {
	mu                       sync.Mutex
	reading, refusing, lines bucket
}

func newAllowance() *allowance {
	return &allowance{
		reading:  bucket{rate: requestRate, burst: requestBurst},
		refusing: bucket{rate: rejectionRate, burst: rejectionBurst},
		lines:    bucket{rate: lineRate, burst: lineBurst},
	}
}

// read returns how long to wait before something that costs n is read.
func (a *allowance) read(n float64, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reading.take(n, now)
}

// refuse returns how long to wait before anything is sent after a rejection of so many bytes.
func (a *allowance) refuse(bytes int, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusing.take(float64(max(bytes, minRejection)), now)
}

// line says whether the pod may cause another line in the log.
func (a *allowance) line(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lines.allow(now)
}

// idle says whether the allowance is as good as new.
func (a *allowance) idle(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range []*bucket{&a.reading, &a.refusing, &a.lines} {
		if b.take(0, now); b.spent > 0 {
			return false
		}
	}
	return true
}

// ending is why the server ends, or does not begin, a stream: a gRPC status with a short name for metrics.
type ending struct {
	reason string
	status *status.Status
}

func (e *ending) Error() string { return e.status.Message() }

// GRPCStatus is what the proxy is told.
func (e *ending) GRPCStatus() *status.Status { return e.status }

func endingf(reason string, code codes.Code, format string, args ...any) error {
	return &ending{reason, status.Newf(code, format, args...)}
}

// reasonOf is the name that metrics give to a stream's end.
func reasonOf(err error) string {
	var e *ending
	switch {
	case err == nil, status.Code(err) == codes.Canceled:
		return "closed"
	case errors.As(err, &e):
		return e.reason
	default:
		return "broken"
	}
}

// blames says whether a stream that ends for a reason is the fault of its proxy, which then is named in the log however many others are.
func blames(reason string) bool {
	return reason == "slow" || reason == "unacknowledged" || reason == "silent"
}

// shortened bounds a text that a proxy made up.
func shortened(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage], "") + "…"
}
