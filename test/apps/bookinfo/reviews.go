package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// review is what a reader wrote. Stars is 0 where the version of reviews shows none.
type review struct {
	Reviewer string `json:"reviewer"`
	Text     string `json:"text"`
	Stars    int    `json:"stars,omitempty"`
}

// reviewsReply is what reviews answers.
type reviewsReply struct {
	ServedBy identity `json:"servedBy"`
	ID       string   `json:"id"`
	// Color of the stars; empty in v1, which has none.
	Color   string   `json:"color,omitempty"`
	Reviews []review `json:"reviews"`
	// Ratings says who served the stars.
	Ratings *ratingsReply `json:"ratings,omitempty"`
}

// colors of the stars by version of reviews.
func colors() map[string]string { return map[string]string{"v1": "", "v2": "black", "v3": "red"} }

func runReviews(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("reviews")
	ratings := flags.String("ratings", "http://ratings:9080", "`URL` of ratings")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if _, known := colors()[s.Version]; !known {
		return fmt.Errorf("-version %s: reviews has the versions v1, v2 and v3", s.Version)
	}
	return s.serve(ctx, reviewsHandler(s, *ratings))
}

func reviewsHandler(s *service, ratingsURL string) http.Handler {
	calls := newCaller()
	mux := s.routes()
	mux.HandleFunc("GET /reviews/{id}", s.counted(func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != bookID {
			writeJSON(w, http.StatusNotFound, problem{s.identity, "there is no book " + r.PathValue("id")})
			return
		}
		reply := reviewsReply{ServedBy: s.identity, ID: bookID, Color: colors()[s.Version], Reviews: bookReviews()}
		if reply.Color != "" {
			var ratings ratingsReply
			if err := calls.get(r.Context(), r.Header, ratingsURL+"/ratings/"+bookID, &ratings); err != nil {
				writeJSON(w, http.StatusBadGateway, problem{s.identity, "ratings: " + err.Error()})
				return
			}
			for i := range reply.Reviews {
				reply.Reviews[i].Stars = ratings.Stars[reply.Reviews[i].Reviewer]
			}
			reply.Ratings = &ratings
		}
		writeJSON(w, http.StatusOK, reply)
	}))
	return mux
}

func bookReviews() []review {
	return []review{
		{Reviewer: "Reader One", Text: "Everything holds together, and one never sees how. A quiet delight."},
		{Reviewer: "Reader Two", Text: "Fine work, if a little transparent in places."},
	}
}
