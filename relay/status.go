package relay

import (
	"time"

	"github.com/outrelay/outrelay"
)

// State is what a source's relay is doing.
type State string

// The states of a source.
const (
	StateUnassigned State = "unassigned" // another process relays it, or none yet
	StateStarting   State = "starting"   // reading its position, opening the source
	StateRunning    State = "running"
	StateWaiting    State = "waiting" // after an error, until a try has worked
	StateHalted     State = "halted"  // a person must decide; Error says what
	StateFenced     State = "fenced"  // another relay has taken over
)

// Status is a snapshot of one source's relay.
type Status struct {
	Source      outrelay.SourceID `json:"source"`
	State       State             `json:"state"`
	Error       string            `json:"error,omitempty"` // of the last failure, with the ways out; empty while running
	Since       time.Time         `json:"since"`           // of State
	Partition   int32             `json:"partition"`       // of __outrelay_positions
	Position    outrelay.Position `json:"-"`               // the last that stands in the log
	Place       string            `json:"place,omitempty"` // the same as people write it
	CommittedAt time.Time         `json:"committed_at"`    // commit time of that transaction at the source
	Events      int64             `json:"events"`          // relayed since the source's first position
	Txns        int64             `json:"txns"`            // Kafka transactions since this process took the source
	Bytes       int64             `json:"bytes"`           // of records, since this process took the source
	LagSeconds  float64           `json:"lag_seconds"`
	Reconnects  int64             `json:"reconnects"`
	DeadLetters int64             `json:"dead_letters"`
	OpenTxn     *OpenTxn          `json:"open_txn,omitempty"`
}

// OpenTxn is the Kafka transaction under way. Readers of the partitions it has touched wait behind it.
type OpenTxn struct {
	Since   time.Time `json:"since"`
	Records int64     `json:"records"`
	Bytes   int64     `json:"bytes"`
	Large   bool      `json:"large"` // a source transaction that comes in parts
	Topics  []string  `json:"topics"`
}
