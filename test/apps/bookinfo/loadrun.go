package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// requestTimeout is after how long a request without an answer counts as failed.
const requestTimeout = 10 * time.Second

// plan is what a run sends.
type plan struct {
	URL string `json:"url"`
	// Rate is in requests a second; 0 sends none.
	Rate float64 `json:"rate"`
	// For is how long requests are sent; 0 is until the run is replaced.
	For time.Duration `json:"-"`
	// Every TesterEvery-th request has the header end-user with the value Tester; none when it is 0.
	Tester      string `json:"tester,omitempty"`
	TesterEvery int    `json:"testerEvery,omitempty"`
	// Fresh has each request make a connection of its own.
	Fresh bool `json:"fresh,omitempty"`
}

// loadReport is what a run has seen so far.
type loadReport struct {
	plan
	Seconds  float64 `json:"seconds"`
	Sent     int64   `json:"sent"`
	InFlight int64   `json:"inFlight"`
	// Succeeded counts the answers 200 that named their versions.
	Succeeded int64 `json:"succeeded"`
	// Statuses counts answers by status; "none" is a request without an answer.
	Statuses map[string]int64 `json:"statuses"`
	// LastError is the text of the latest failure.
	LastError string `json:"lastError,omitempty"`
	// LatencyMS has the quantiles of the time from when a request was due until its answer was read, in milliseconds.
	LatencyMS map[string]float64 `json:"latencyMs"`
	// Versions counts, by user ("" is everybody without a name) and service, which version served.
	Versions map[string]map[string]map[string]int64 `json:"versions"`
}

// loadRun sends the requests of a plan, each once, at the moment that it is due, however long the others take.
type loadRun struct {
	plan   plan
	client *http.Client
	stop   context.CancelFunc
	ended  chan struct{}

	mu        sync.Mutex
	started   time.Time
	report    loadReport
	latencies histogram
}

func startRun(p plan, client *http.Client) *loadRun {
	ctx, stop := context.WithCancel(context.Background())
	run := &loadRun{plan: p, client: client, stop: stop, ended: make(chan struct{}), started: time.Now(), report: loadReport{
		plan: p, Statuses: map[string]int64{}, Versions: map[string]map[string]map[string]int64{},
	}}
	go func() {
		defer close(run.ended)
		run.send(ctx)
		run.mu.Lock()
		defer run.mu.Unlock()
		run.report.Seconds = time.Since(run.started).Seconds()
	}()
	return run
}

// send returns when the last request has been answered. A request that is late, as the machine was busy, is sent all the same.
func (l *loadRun) send(ctx context.Context) {
	if l.plan.Rate <= 0 {
		var over <-chan time.Time // never, without an end
		if l.plan.For > 0 {
			over = time.After(l.plan.For)
		}
		select {
		case <-ctx.Done():
		case <-over:
		}
		return
	}
	var requests sync.WaitGroup
	defer requests.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := l.started.Add(time.Duration(float64(n) / l.plan.Rate * float64(time.Second)))
		if l.plan.For > 0 && due.Sub(l.started) >= l.plan.For {
			return
		}
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		user := ""
		if l.plan.TesterEvery > 0 && n%l.plan.TesterEvery == 0 {
			user = l.plan.Tester
		}
		requests.Go(func() { l.request(user, due) })
	}
}

func (l *loadRun) request(user string, due time.Time) {
	l.mu.Lock()
	l.report.Sent++
	l.report.InFlight++
	l.mu.Unlock()
	answer, status, err := l.get(user)
	took := time.Since(due)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.InFlight--
	l.latencies.add(took)
	l.report.Statuses[status]++
	if err != nil {
		l.report.LastError = err.Error()
		return
	}
	if status != "200" {
		l.report.LastError = answer.Error
		return
	}
	l.report.Succeeded++
	l.saw(user, answer.ServedBy)
	if answer.Details != nil {
		l.saw(user, answer.Details.ServedBy)
	}
	if answer.Reviews != nil {
		l.saw(user, answer.Reviews.ServedBy)
		if answer.Reviews.Ratings != nil {
			l.saw(user, answer.Reviews.Ratings.ServedBy)
		}
	}
}

// get sends one request. The status is "none" when there was no answer.
func (l *loadRun) get(user string) (answer product, status string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	// net/http repeats a request that fails on a kept connection, unless it has a body that can't be read again.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.plan.URL, io.NopCloser(emptyBody{}))
	if err != nil {
		return product{}, "none", err
	}
	request.Close = l.plan.Fresh
	if user != "" {
		request.Header.Set("end-user", user)
	}
	response, err := l.client.Do(request)
	if err != nil {
		return product{}, "none", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return product{}, "none", err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		answer.Error = firstLine(body)
	}
	return answer, strconv.Itoa(response.StatusCode), nil
}

// emptyBody is a body without bytes that net/http does not know to be empty.
type emptyBody struct{}

// Read implements io.Reader.
func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }

func (l *loadRun) saw(user string, by identity) {
	services := l.report.Versions[user]
	if services == nil {
		services = map[string]map[string]int64{}
		l.report.Versions[user] = services
	}
	if services[by.Service] == nil {
		services[by.Service] = map[string]int64{}
	}
	services[by.Service][by.Version]++
}

// end sends no more and returns when nothing is in flight.
func (l *loadRun) end() {
	l.stop()
	<-l.ended
}

// writeReport answers with the report so far.
func (l *loadRun) writeReport(w http.ResponseWriter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := l.report
	select {
	case <-l.ended:
	default:
		report.Seconds = time.Since(l.started).Seconds()
	}
	report.LatencyMS = map[string]float64{"max": milliseconds(l.latencies.max)}
	for name, q := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99} {
		report.LatencyMS[name] = milliseconds(l.latencies.quantile(q))
	}
	writeJSON(w, http.StatusOK, report)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
