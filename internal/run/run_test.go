package run_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/run"
)

func TestGroup_StopsInReverseAndTwiceIsHarmless(t *testing.T) {
	t.Parallel()
	g := run.New(context.Background())
	var mu sync.Mutex
	var order []string
	for _, name := range []string{"broker", "relay", "consumers"} {
		g.Start(run.Service{Name: name, Run: func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return nil
		}})
	}
	if late := g.Stop(time.Minute); len(late) != 0 {
		t.Fatalf("late: %v", late)
	}
	if late := g.Stop(time.Minute); late != nil {
		t.Fatalf("second Stop: %v", late)
	}
	if want := []string{"consumers", "relay", "broker"}; !slices.Equal(order, want) {
		t.Fatalf("stopped in order %v, want %v", order, want)
	}
	if err := g.Wait(); err != nil {
		t.Fatalf("Wait after Stop: %v", err)
	}
}

func TestGroup_FailureNamesTheService(t *testing.T) {
	t.Parallel()
	g := run.New(context.Background())
	boom := errors.New("boom")
	g.Start(run.Service{Name: "relay", Run: func(context.Context) error { return boom }})
	err := g.Wait()
	if !errors.Is(err, boom) || err.Error() != "relay: boom" {
		t.Fatalf("Wait: %v", err)
	}
	g.Stop(time.Second)
}

func TestGroup_StopNamesWhoIsLate(t *testing.T) {
	t.Parallel()
	g := run.New(context.Background())
	hold := make(chan struct{})
	defer close(hold)
	g.Start(run.Service{Name: "stuck", Run: func(context.Context) error { <-hold; return nil }})
	if late := g.Stop(time.Millisecond); !slices.Equal(late, []string{"stuck"}) {
		t.Fatalf("late: %v", late)
	}
}
