package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// ServeKfake serves franz-go's in-memory fake of a Kafka broker until ctx ends. Its first line on out is its address.
func ServeKfake(ctx context.Context, topic string, partitions int32, out io.Writer) error {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(out, c.ListenAddrs()[0]); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// startKfake runs the fake in a process of its own, as outrelay runs: the same two cores, the same loopback.
func (e *env) startKfake(ctx context.Context, name, topic string, partitions int32) (*child, error) {
	c := &child{name: name, done: make(chan error, 1), logName: e.path(name + ".log")}
	c.cmd = exec.Command(e.o.Binary, "bench", "kfake-serve", "--topic", topic, "--partitions", fmt.Sprint(partitions))
	r, w := io.Pipe()
	c.cmd.Stdout = w
	if err := c.launch(); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, c.tail())
	}
	c.kafka = strings.TrimSpace(line)
	return c, nil
}
