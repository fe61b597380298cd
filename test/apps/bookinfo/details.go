package main

import (
	"context"
	"io"
	"net/http"
)

// bookID is the only book there is.
const bookID = "0"

// detailsReply is what details answers.
type detailsReply struct {
	ServedBy  identity `json:"servedBy"`
	ID        string   `json:"id"`
	Title     string   `json:"title"`
	Author    string   `json:"author"`
	Year      int      `json:"year"`
	Pages     int      `json:"pages"`
	Publisher string   `json:"publisher"`
	Language  string   `json:"language"`
}

func runDetails(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("details")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return s.serve(ctx, detailsHandler(s))
}

func detailsHandler(s *service) http.Handler {
	mux := s.routes()
	mux.HandleFunc("GET /details/{id}", s.counted(func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != bookID {
			writeJSON(w, http.StatusNotFound, problem{s.identity, "there is no book " + r.PathValue("id")})
			return
		}
		writeJSON(w, http.StatusOK, detailsReply{
			ServedBy: s.identity, ID: bookID,
			Title: "A Field Guide to Nets", Author: "Ada Weaver",
			Year: 1926, Pages: 212, Publisher: "Selvedge & Sons", Language: "English",
		})
	}))
	return mux
}
