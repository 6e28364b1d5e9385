package consumer

import (
	"time"

	"github.com/outrelay/outrelay"
)

// State is what a partition of a group is doing.
type State string

// The states of a partition.
const (
	StateClaiming State = "claiming" // assigned, not yet owned in the sink
	StateRunning  State = "running"
	StatePaused   State = "paused"  // the sink cannot be reached or is busy; tried again by itself
	StateBlocked  State = "blocked" // a record fails by itself; tried again now and then
	StateHalted   State = "halted"  // going on would lose or repeat; a person must decide
)

// PartitionStatus is the state of one partition that this process is assigned.
type PartitionStatus struct {
	outrelay.TopicPartition
	State       State     `json:"state"`
	Epoch       int64     `json:"epoch"`          // of our claim
	NextOffset  int64     `json:"next_offset"`    // in the sink; -1 before the first claim
	LogEnd      int64     `json:"log_end_offset"` // last stable offset, as last seen
	LagRecords  int64     `json:"lag_records"`
	LagSeconds  float64   `json:"lag_seconds"`
	LastError   string    `json:"last_error,omitempty"`
	BlockedAt   int64     `json:"blocked_at"` // offset of the failing record when blocked, else -1
	LastApplied time.Time `json:"last_applied,omitzero"`
}
