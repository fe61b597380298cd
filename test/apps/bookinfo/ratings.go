package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// ratingsReply is what ratings answers: stars by reviewer.
type ratingsReply struct {
	ServedBy identity       `json:"servedBy"`
	ID       string         `json:"id"`
	Stars    map[string]int `json:"stars"`
}

func runRatings(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("ratings")
	store := flags.String("datastore", "datastore:6300", "`address` of the data store")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return s.serve(ctx, ratingsHandler(s, *store))
}

func ratingsHandler(s *service, store string) http.Handler {
	mux := s.routes()
	mux.HandleFunc("GET /ratings/{id}", s.counted(func(w http.ResponseWriter, r *http.Request) {
		key := "ratings/" + r.PathValue("id")
		value, found, err := lookUp(r.Context(), store, key)
		if err != nil {
			writeJSON(w, http.StatusBadGateway, problem{s.identity, err.Error()})
			return
		}
		if !found {
			writeJSON(w, http.StatusNotFound, problem{s.identity, "there are no ratings of book " + r.PathValue("id")})
			return
		}
		reply := ratingsReply{ServedBy: s.identity, ID: r.PathValue("id")}
		if err := json.Unmarshal([]byte(value), &reply.Stars); err != nil {
			writeJSON(w, http.StatusBadGateway, problem{s.identity, fmt.Sprintf("data store: value of %s: %v", key, err)})
			return
		}
		writeJSON(w, http.StatusOK, reply)
	}))
	return mux
}
