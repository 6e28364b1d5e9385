package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/admin"
)

func start(t *testing.T, ready func() map[string]error) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "outrelay_test_total"}))
	s := admin.New(admin.Options{Ready: ready, Status: func(context.Context) any { return map[string]int{"lag": 7} }, Gatherer: reg})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func do(t *testing.T, method, url, host string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		r.Host = host
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServer_Routes(t *testing.T) {
	t.Parallel()
	base := start(t, func() map[string]error {
		return map[string]error{"broker": nil, "relay": errors.New("source shop: slot is missing")}
	})
	for _, c := range []struct {
		name, method, path, host string
		code                     int
		want                     string
	}{
		{"live", "GET", "/livez", "", 200, "ok"},
		{"not ready names the role and why", "GET", "/readyz", "", 503, "broker: ok\nrelay: source shop: slot is missing\n"},
		{"status", "GET", "/status", "", 200, `"lag": 7`},
		{"metrics", "GET", "/metrics", "", 200, "outrelay_test_total 0"},
		{"index", "GET", "/", "", 200, "/readyz"},
		{"unknown", "GET", "/secret", "", 404, ""},
		{"no writes (B96)", "POST", "/status", "", 405, ""},
		{"rebound name (B89)", "GET", "/status", "evil.example", 421, "localhost"},
		{"localhost", "GET", "/livez", "localhost:1", 200, "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, body := do(t, c.method, base+c.path, c.host)
			if code != c.code || !strings.Contains(body, c.want) {
				t.Errorf("%d %q, want %d with %q", code, body, c.code, c.want)
			}
		})
	}
}

func TestServer_ReadyWhenEveryRoleIs(t *testing.T) {
	t.Parallel()
	base := start(t, func() map[string]error { return map[string]error{"broker": nil} })
	if code, body := do(t, "GET", base+"/readyz", ""); code != 200 || body != "broker: ok\n" {
		t.Errorf("%d %q", code, body)
	}
}
