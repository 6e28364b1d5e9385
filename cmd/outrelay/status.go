package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/daemon"
)

func newStatus(a *app) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show positions, offsets and lag of a running process",
		Example: `  outrelay status
  outrelay status --http 127.0.0.1:8080 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if addr == "" {
				c, err := a.loadIfAny()
				if err != nil {
					return err
				}
				addr = c.HTTP.Listen
			}
			s, raw, err := fetchStatus(cmd.Context(), addr)
			if err != nil {
				return err
			}
			if a.json {
				_, err := a.out.Write(raw)
				return err
			}
			return a.printStatus(s)
		},
	}
	cmd.Flags().StringVar(&addr, "http", "", "HTTP address of the process (default: http.listen of the file)")
	return cmd
}

func fetchStatus(ctx context.Context, addr string) (daemon.Status, []byte, error) {
	var s daemon.Status
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status", nil)
	if err != nil {
		return s, nil, usageError{err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "no-process", Place: addr, Cause: "no outrelay answers", Err: errors.Unwrap(err),
			Fix: "start it with `outrelay run`, or name its HTTP address with --http"}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return s, nil, fmt.Errorf("%s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return s, nil, fmt.Errorf("%s: %s: %s", addr, resp.Status, raw)
	}
	return s, raw, json.Unmarshal(raw, &s)
}

func (a *app) printStatus(s daemon.Status) error {
	ready := "ready"
	if !s.Ready {
		ready = "not ready"
	}
	fmt.Fprintf(a.out, "outrelay %s, %s, up %s, roles %v\n", s.Version, ready, time.Since(s.StartedAt).Round(time.Second), s.Roles)
	for _, n := range s.NotReady {
		fmt.Fprintf(a.out, "  %s\n", n)
	}
	fmt.Fprintf(a.out, "log %s", s.Log.ID)
	if s.Listening.Kafka != "" {
		fmt.Fprintf(a.out, " on %s", s.Listening.Kafka)
	}
	fmt.Fprintln(a.out)
	if x := s.Log.Server; x != nil {
		fmt.Fprintf(a.out, "  Kafka %s, %d broker(s), at %s\n", x.Version, x.Brokers, strings.Join(s.Log.External, ", "))
		printGuarantees(a.out, "  ", s.Log.Guarantees)
	}
	if s.Log.DiskFull != "" {
		fmt.Fprintf(a.out, "  disk full: %s\n", s.Log.DiskFull)
	}
	for _, p := range s.Log.Damaged {
		fmt.Fprintf(a.out, "  damaged, not served: %s\n", p.Damage)
	}
	if len(s.Sources) > 0 {
		fmt.Fprintln(a.out)
		w := a.table("SOURCE\tSTATE\tPOSITION\tHEAD\tBEHIND\tRETAINED\tEVENTS\tLAG")
		for _, x := range s.Sources {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%.1fs\n", x.Source, x.State, x.Place, x.Head, bytesOf(x.BehindBytes), bytesOf(x.RetainedBytes), x.Events, x.LagSeconds)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, x := range s.Sources {
			if x.Error != "" {
				fmt.Fprintf(a.out, "  %s: %s\n", x.Source, x.Error)
			}
			if x.DatabaseError != "" {
				fmt.Fprintf(a.out, "  %s: database: %s\n", x.Source, x.DatabaseError)
			}
			if t := x.OpenTxn; t != nil && time.Since(t.Since) > 5*time.Second {
				fmt.Fprintf(a.out, "  %s: a transaction of %d records is open since %s; readers of %v wait behind it\n", x.Source, t.Records, t.Since.Format(time.RFC3339), t.Topics)
			}
		}
	}
	for _, g := range s.Groups {
		fmt.Fprintf(a.out, "\ngroup %s: lag %d\n", g.Group, g.LagRecords)
		if g.Error != "" {
			fmt.Fprintf(a.out, "  %s\n", g.Error)
		}
		if err := a.printPartitions(g); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printPartitions(g daemon.GroupStatus) error {
	if len(g.Partitions) == 0 {
		return nil
	}
	w := a.table("TOPIC\tPARTITION\tSTATE\tNEXT OFFSET\tLOG END\tLAG\tSECONDS\tEPOCH")
	for _, p := range g.Partitions {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\t%.1f\t%d\n", p.Topic, p.Partition, p.State, p.NextOffset, p.LogEnd, p.LagRecords, p.LagSeconds, p.Epoch)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range g.Partitions {
		if p.LastError != "" {
			fmt.Fprintf(a.out, "  %s/%d: %s\n", p.Topic, p.Partition, p.LastError)
		}
	}
	return nil
}

func bytesOf(n int64) string {
	switch {
	case n < 0:
		return "-"
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KB", n>>10)
	}
	return fmt.Sprintf("%d MB", n>>20)
}
