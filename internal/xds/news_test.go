package xds

import "testing"

// Endpoints come and go all the time: that a proxy is given some and acknowledges them is nothing that a status depends on. That a proxy comes, or
// holds something else that is new, is.
func TestEndpointsAreNoNews(t *testing.T) {
	r := start(t, nil)
	const cluster = "bundle proxy 1 needs=cluster:c\ncluster c 1 warms=endpoints:e"
	view := r.publish(newTestView(), cluster+"\nendpoints e 1")
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster c@1")
	c.request("endpoints", "+e")
	c.want("endpoints e@1")
	at := func(revision uint64) func([]ProxyState) bool {
		return func(s []ProxyState) bool {
			return len(s) == 1 && s[0].SyncedRevision == revision && s[0].Pending.Count == 0
		}
	}
	r.until(t, "synced", at(1))
	if !r.News() || r.News() {
		t.Error("that a proxy came and is configured is news, once")
	}

	view = r.publish(view, "endpoints e 2")
	c.want("endpoints e@2")
	r.until(t, "synced again", at(2))
	if r.News() {
		t.Error("endpoints are news")
	}

	view = r.publish(view, "cluster c 2 warms=endpoints:e")
	if !r.News() {
		t.Error("another cluster is no news")
	}
	c.want("cluster c@2")
	c.want("endpoints e@2") // comes again with its cluster
	r.until(t, "synced a third time", at(3))
	if !r.News() {
		t.Error("that a proxy holds the other cluster is no news")
	}

	// A Mesh that changes nothing of what proxies hold, together with endpoints.
	r.Reshape(4)
	r.publish(view, "endpoints e 3")
	r.News()
	c.want("endpoints e@3")
	r.until(t, "synced a fourth time", at(4))
	if !r.News() {
		t.Error("that a proxy is at a revision that is more than endpoints is no news")
	}
}
