package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"html/template"
	"io"
	"net/http"
	"strings"
	"sync"
)

//go:embed page.html
var pageHTML string

// userCookie holds the name that a person signed in with on the page.
const userCookie = "user"

// product is all that is known about a book: what the JSON API answers and what the page shows.
type product struct {
	ServedBy identity      `json:"servedBy"`
	User     string        `json:"user,omitempty"`
	Details  *detailsReply `json:"details,omitempty"`
	Reviews  *reviewsReply `json:"reviews,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// productpage is the service that people see.
type productpage struct {
	*service
	calls            *caller
	details, reviews string
	page             *template.Template
}

func runProductpage(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("productpage")
	details := flags.String("details", "http://details:9080", "`URL` of details")
	reviews := flags.String("reviews", "http://reviews:9080", "`URL` of reviews")
	if err := flags.Parse(args); err != nil {
		return err
	}
	handler, err := productpageHandler(s, *details, *reviews)
	if err != nil {
		return err
	}
	return s.serve(ctx, handler)
}

func productpageHandler(s *service, details, reviews string) (http.Handler, error) {
	funcs := template.FuncMap{"stars": func(n int) string { return strings.Repeat("★", n) + strings.Repeat("☆", 5-n) }}
	page, err := template.New("page").Funcs(funcs).Parse(pageHTML)
	if err != nil {
		return nil, err
	}
	p := &productpage{service: s, calls: newCaller(), details: details, reviews: reviews, page: page}
	mux := s.routes()
	mux.HandleFunc("GET /{$}", s.counted(p.showPage))
	mux.HandleFunc("POST /sign-in", signIn)
	mux.HandleFunc("GET /api/products/{id}", s.counted(p.showJSON))
	return mux, nil
}

func (p *productpage) showJSON(w http.ResponseWriter, r *http.Request) {
	product, status := p.product(r.Context(), r.Header, r.PathValue("id"))
	writeJSON(w, status, product)
}

func (p *productpage) showPage(w http.ResponseWriter, r *http.Request) {
	header := r.Header.Clone()
	if cookie, err := r.Cookie(userCookie); err == nil && header.Get("end-user") == "" {
		header.Set("end-user", cookie.Value)
	}
	product, status := p.product(r.Context(), header, bookID)
	var page bytes.Buffer
	if err := p.page.Execute(&page, product); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("content-type", "text/html; charset=utf-8")
	w.Header().Set("cache-control", "no-store")
	w.WriteHeader(status)
	// The client has gone when this fails; there is nobody left to tell.
	_, _ = page.WriteTo(w)
}

// signIn remembers a name, or forgets it when it is empty, and shows the page again.
func signIn(w http.ResponseWriter, r *http.Request) {
	cookie := http.Cookie{Name: userCookie, Value: r.FormValue("user"), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if cookie.Value == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, &cookie)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// product asks details and reviews at the same time. A part that fails makes the whole fail, with its error.
func (p *productpage) product(ctx context.Context, header http.Header, id string) (product, int) {
	result := product{ServedBy: p.identity, User: header.Get("end-user")}
	var details detailsReply
	var reviews reviewsReply
	var detailsErr, reviewsErr error
	var both sync.WaitGroup
	both.Go(func() { detailsErr = p.calls.get(ctx, header, p.details+"/details/"+id, &details) })
	both.Go(func() { reviewsErr = p.calls.get(ctx, header, p.reviews+"/reviews/"+id, &reviews) })
	both.Wait()
	if detailsErr == nil {
		result.Details = &details
	}
	if reviewsErr == nil {
		result.Reviews = &reviews
	}
	err := errors.Join(detailsErr, reviewsErr)
	if err == nil {
		return result, http.StatusOK
	}
	result.Error = err.Error()
	var answer *statusError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound {
		return result, http.StatusNotFound
	}
	return result, http.StatusBadGateway
}
