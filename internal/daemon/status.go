package daemon

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
)

// Status is what a process knows of itself, as /status and `outrelay status` show it.
type Status struct {
	Version   string         `json:"version"`
	Instance  string         `json:"instance"`
	StartedAt time.Time      `json:"started_at"`
	Roles     []config.Role  `json:"roles"`
	Listening Addrs          `json:"listening"`
	Ready     bool           `json:"ready"`
	NotReady  []string       `json:"not_ready,omitempty"` // role: why
	Log       LogStatus      `json:"log"`
	Sources   []SourceStatus `json:"sources"`
	Groups    []GroupStatus  `json:"groups"`
}

// LogStatus says which log this process uses.
type LogStatus struct {
	ID       string   `json:"id"`
	External []string `json:"external,omitempty"`
	// Server and Guarantees are what an external log has said it is, and what holds with it.
	Server     *kafka.Server     `json:"server,omitempty"`
	Guarantees []kafka.Guarantee `json:"guarantees,omitempty"`
	// Damaged are the partitions of the own broker that are not served because their files are not what was written.
	Damaged []broker.DamagedPartition `json:"damaged,omitempty"`
	// DiskFull says why the own broker accepts nothing from producers.
	DiskFull string `json:"disk_full,omitempty"`
}

// SourceStatus is a source's relay beside what its database says.
type SourceStatus struct {
	relay.Status
	Database      string           `json:"database,omitempty"` // server and version
	Head          string           `json:"head,omitempty"`     // where the database's log ends
	BehindBytes   int64            `json:"behind_bytes"`       // from our position to the head; -1 unknown
	RetainedBytes int64            `json:"retained_bytes"`     // what the database keeps for us; -1 unknown
	Ignored       map[string]int64 `json:"ignored,omitempty"`
	DatabaseError string           `json:"database_error,omitempty"`
}

// GroupStatus is a managed group.
type GroupStatus struct {
	Group      string                     `json:"group"`
	Ready      bool                       `json:"ready"`
	Error      string                     `json:"error,omitempty"`
	LagRecords int64                      `json:"lag_records"`
	Partitions []consumer.PartitionStatus `json:"partitions"`
}

// databaseWait bounds what a status request waits for databases.
const databaseWait = 2 * time.Second

// Ready returns, by role, nil or why it does not work.
func (d *Daemon) Ready() map[string]error {
	d.mu.Lock()
	defer d.mu.Unlock()
	states := map[string]error{}
	for _, r := range d.c.Roles {
		states[string(r)] = d.readyRole(r)
	}
	return states
}

func (d *Daemon) readyRole(r config.Role) error {
	switch r {
	case config.RoleBroker:
		if d.server == nil {
			return errors.New("starting")
		}
		return d.server.Ready()
	case config.RoleRelay:
		if len(d.c.Sources) == 0 {
			return nil
		}
		if d.manager == nil {
			return fmt.Errorf("waiting for %s", d.starting)
		}
		return d.manager.Ready()
	case config.RoleConsumers:
		if len(d.c.Consumers) == 0 {
			return nil
		}
		if d.starting != "" {
			return fmt.Errorf("waiting for %s", d.starting)
		}
		var errs []error
		for name := range d.c.Consumers {
			g, ok := d.groups[name]
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("group %s: starting", name))
			case g.err != nil:
				errs = append(errs, fmt.Errorf("group %s: %w", name, g.err))
			default:
				if err := g.g.Ready(); err != nil {
					errs = append(errs, fmt.Errorf("group %s: %w", name, err))
				}
			}
		}
		return errors.Join(errs...)
	}
	return nil
}

// Status gathers what the parts know and asks the databases of sources where they stand, for at most two seconds.
func (d *Daemon) Status(ctx context.Context) Status {
	ready := d.Ready()
	d.mu.Lock()
	s := Status{Version: d.o.Version, StartedAt: d.startedAt, Roles: d.c.Roles, Listening: d.addrs, Ready: true,
		Log: LogStatus{ID: d.logID, External: d.c.Log.Kafka.Brokers}, Sources: []SourceStatus{}, Groups: []GroupStatus{}}
	if d.identity != nil {
		s.Instance = d.identity.instance
	}
	if s.Log.ID == "" && d.server != nil {
		s.Log.ID = d.server.ClusterID()
	}
	if d.server != nil {
		s.Log.Damaged, s.Log.DiskFull = d.server.Damaged(), d.server.DiskFull()
	}
	if d.external != nil {
		s.Log.Server, s.Log.Guarantees = d.external, d.external.Guarantees()
	}
	m := d.manager
	groups := make(map[string]*group, len(d.groups))
	for name, g := range d.groups {
		groups[name] = &group{g.g, g.err}
	}
	d.mu.Unlock()
	for _, r := range s.Roles {
		if err := ready[string(r)]; err != nil {
			s.Ready = false
			s.NotReady = append(s.NotReady, string(r)+": "+err.Error())
		}
	}
	if m != nil {
		s.Sources = d.sourceStatus(ctx, m.Status())
	}
	for name, g := range groups {
		s.Groups = append(s.Groups, groupStatus(name, g))
	}
	sort.Slice(s.Groups, func(i, j int) bool { return s.Groups[i].Group < s.Groups[j].Group })
	return s
}

func (d *Daemon) sourceStatus(ctx context.Context, list []relay.Status) []SourceStatus {
	ctx, cancel := context.WithTimeout(ctx, databaseWait)
	defer cancel()
	out := make([]SourceStatus, len(list))
	var wg sync.WaitGroup
	for i, rs := range list {
		out[i] = SourceStatus{Status: rs, BehindBytes: -1, RetainedBytes: -1}
		src := d.from[string(rs.Source)]
		if src == nil {
			continue
		}
		wg.Go(func() {
			st, err := src.Status(ctx, rs.Position)
			if err != nil {
				out[i].DatabaseError = err.Error()
				return
			}
			o := &out[i]
			o.Database, o.Head, o.BehindBytes, o.RetainedBytes, o.Ignored = st.Server, st.Head, st.BehindBytes, st.RetainedBytes, st.Ignored
		})
	}
	wg.Wait()
	return out
}

func groupStatus(name string, g *group) GroupStatus {
	s := GroupStatus{Group: name, Ready: true, Partitions: g.g.Status()}
	err := g.err
	if err == nil {
		err = g.g.Ready()
	}
	if err != nil {
		s.Ready, s.Error = false, err.Error()
	}
	for _, p := range s.Partitions {
		s.LagRecords += p.LagRecords
	}
	return s
}
