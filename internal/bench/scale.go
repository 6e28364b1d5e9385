package bench

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	scalePartitions  = 1000
	scaleMembers     = 100
	scaleBacklogGiB  = 10
	scaleIdleWatch   = 10 * time.Second // how long an idle process's processor time is looked at
	scaleBackPerPart = 100              // records in each of the many partitions before the restart
	scaleHeartbeat   = 500 * time.Millisecond

	scaleBacklogTopic = "scale.backlog"
	scaleManyTopic    = "scale.many"
	scalePacedTopic   = "scale.paced"
	scaleGroupTopic   = "scale.group"

	idleTargetMB       = 100
	idleTargetPercent  = 1 // of one core; a tick of the kernel's clock in ten seconds is 0.1
	catchUpTarget      = 2
	restartTargetSec   = 3
	rebalanceTargetSec = 2
)

// scaleRun is one run of Scale: outrelay and what was found.
type scaleRun struct {
	e     *env
	child *child

	rss, cpu     [2]float64 // MB, percent of a core: without the partitions, with them
	alone, while []logSample
	readPerSec   []float64 // records that the reader took while the producer was measured
	restarts     []float64 // seconds
	rebalances   []rebalance
}

// Scale measures what many partitions, many gigabytes and many members cost the log: see docs/benchmarks/scale.md. Options.Rows is the backlog in records of 1 KiB.
func Scale(ctx context.Context, o Options) (_ *Report, err error) {
	began := time.Now()
	if o.For <= 0 {
		o.For = 15 * time.Second
	}
	if o.Rows <= 0 {
		o.Rows = scaleBacklogGiB << 20
	}
	e, err := open(o)
	if err != nil {
		return nil, err
	}
	defer e.close()
	s := &scaleRun{e: e}
	if s.child, err = e.start(ctx, childOptions{name: "scale", data: e.path("scale"), profile: true}); err != nil {
		return nil, err
	}
	defer func() {
		if serr := s.child.stop(); err == nil {
			err = serr
		}
	}()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{{"idle partitions", s.idle}, {"rebalances", s.rebalance}, {"catch-up", s.catchUp}, {"restarts", s.restart}} {
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return e.finish(s.report(), began, "")
}

// idle looks at memory and processor time of the process before and after it has many partitions that nobody uses.
func (s *scaleRun) idle(ctx context.Context) error {
	look := func(i int) error {
		if !pause(ctx, scaleIdleWatch/2) { // until what creating them has left is collected
			return ctx.Err()
		}
		from, at := s.child.cpu(), time.Now()
		if !pause(ctx, scaleIdleWatch) {
			return ctx.Err()
		}
		s.rss[i] = float64(s.child.status("VmRSS")) / 1e6
		s.cpu[i] = 100 * float64(s.child.cpu()-from) / float64(time.Since(at))
		s.e.say("%s partitions, idle: %s MB resident, %s %% of a core", num(float64(i*scalePartitions)), num(s.rss[i]), num(s.cpu[i]))
		return nil
	}
	if err := look(0); err != nil {
		return err
	}
	if err := createTopic(ctx, s.child.kafka, scaleManyTopic, scalePartitions); err != nil {
		return err
	}
	return look(1)
}

// catchUp measures the latency of a paced producer alone, and while a reader goes through the backlog as fast as it can.
func (s *scaleRun) catchUp(ctx context.Context) error {
	seed := s.child.kafka
	for _, t := range []string{scaleBacklogTopic, scalePacedTopic} {
		if err := createTopic(ctx, seed, t, logPartitions); err != nil {
			return err
		}
	}
	at := time.Now()
	if err := fill(ctx, seed, scaleBacklogTopic, s.e.o.Rows); err != nil {
		return err
	}
	s.e.say("%s records of backlog written in %s", num(float64(s.e.o.Rows)), time.Since(at).Round(time.Second))
	for round := range s.e.o.Rounds {
		syscall.Sync()
		alone, err := paced(ctx, seed, scalePacedTopic, logPacedRate, s.e.o.For)
		if err != nil {
			return err
		}
		syscall.Sync()
		while, read, err := s.pacedWhileReading(ctx)
		if err != nil {
			return err
		}
		s.alone, s.while, s.readPerSec = append(s.alone, alone), append(s.while, while), append(s.readPerSec, read)
		s.e.say("catch-up, round %d: p99 %s ms alone, %s ms while %s records/s are read", round+1, num(alone.p99), num(while.p99), num(read))
	}
	return nil
}

// pacedWhileReading lets one connection of another process read the backlog for as long as the producer runs. It begins anew where it ends.
func (s *scaleRun) pacedWhileReading(ctx context.Context) (while logSample, readPerSec float64, err error) {
	length := warmUp(s.e.o.For) + s.e.o.For
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.e.o.Binary, "bench", "read", "--kafka", s.child.kafka, "--topic", scaleBacklogTopic, "--partitions", strconv.Itoa(logPartitions), "--for", length.String())
	cmd.Stdout, cmd.Stderr = &out, s.e.o.Progress
	if err := cmd.Start(); err != nil {
		return while, 0, err
	}
	if while, err = paced(ctx, s.child.kafka, scalePacedTopic, logPacedRate, s.e.o.For); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed: there is nothing to learn
		return while, 0, err
	}
	if err := cmd.Wait(); err != nil {
		return while, 0, fmt.Errorf("the reader: %w", err)
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	return while, n / length.Seconds(), err
}

// Read reads a topic over one connection, again and again, records not decoded, and returns how many came.
func Read(ctx context.Context, seed, topic string, partitions int, length time.Duration) (int64, error) {
	own := make([]int32, partitions)
	for i := range own {
		own[i] = int32(i)
	}
	now := time.Now()
	_, n, err := fetchUntil(ctx, seed, topic, own, now, now.Add(length))
	return n, err
}

// restart kills the process and starts it again on what it had, as often as there are rounds.
func (s *scaleRun) restart(ctx context.Context) error {
	if err := fill(ctx, s.child.kafka, scaleManyTopic, scalePartitions*scaleBackPerPart); err != nil {
		return err
	}
	for round := range s.e.o.Rounds {
		s.child.kill()
		c, err := s.e.start(ctx, childOptions{name: fmt.Sprintf("scale-restart-%d", round+1), data: s.e.path("scale")})
		if err != nil {
			return err
		}
		s.child = c
		s.restarts = append(s.restarts, c.ready.Seconds())
		s.e.say("restart after kill -9, round %d: ready in %s", round+1, c.ready.Round(time.Millisecond))
		if err := fill(ctx, c.kafka, scaleManyTopic, scalePartitions); err != nil { // something is always under way
			return err
		}
	}
	return nil
}
