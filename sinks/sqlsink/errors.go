package sqlsink

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// Kind is what a server's error means for a batch.
type Kind int

// The kinds.
const (
	KindRecord    Kind = iota // this record, whatever the time
	KindTransient             // the server or its schema, not the record
	KindConflict              // another transaction
)

// Unavailable is an error of the server or of its schema, which is waited out.
func Unavailable(what string, err error) error {
	return &outrelay.Error{Class: outrelay.ErrTransient, Code: "sink-unavailable", Place: "sink", Cause: what, Err: err}
}

// Conflict is an error that another transaction caused.
func Conflict(what string, err error) error {
	return &outrelay.Error{Class: outrelay.ErrTransient, Code: "sink-conflict", Place: "sink", Cause: what, Err: errors.Join(sinks.ErrConflict, err)}
}

// Fenced is the error of a batch whose claim no longer holds.
func Fenced(b *sinks.Batch) error {
	return &outrelay.Error{
		Class: outrelay.ErrFenced, Code: "fenced", Place: fmt.Sprintf("group %s, %s/%d", b.Claim.Group, b.Claim.Partition.Topic, b.Claim.Partition.Partition),
		Cause: fmt.Sprintf("epoch %d at offset %d is no longer the owner's in outrelay_offsets", b.Claim.Epoch, b.From),
	}
}

// CommitRefused is the error of a transaction whose COMMIT the server refused because of what is in it: some record is at fault, the consumer finds out which.
func CommitRefused(err error) error {
	return &outrelay.Error{Class: outrelay.ErrRecord, Code: "commit-refused", Place: "sink", Cause: "commit", Err: err}
}

// ApplyError carries whether the session is of use after Err.
type ApplyError struct {
	Err    error
	Broken bool
}

func (e *ApplyError) Error() string { return e.Err.Error() }

// Unwrap makes errors.Is find the class.
func (e *ApplyError) Unwrap() error { return e.Err }

// ServerError keeps the server's error reachable with errors.As under a text of ours.
type ServerError struct {
	Text string
	Err  error
}

func (e *ServerError) Error() string { return e.Text }

// Unwrap returns the server's error.
func (e *ServerError) Unwrap() error { return e.Err }

// ForeignRow is a row of another log or topic under our topic's name.
type ForeignRow struct {
	LogID, TopicID, Partition, Next string
}

// Halt is the error of a claim that met the row.
func (r ForeignRow) Halt(group string, p sinks.Partition) error {
	e := &outrelay.Error{
		Class: outrelay.ErrDataHalt, Place: fmt.Sprintf("group %s, topic %s", group, p.Topic),
		Fix: fmt.Sprintf("to go on in this log: `outrelay groups reset %[1]s --topic %[2]s --to earliest` (processes all of the topic) or `--to latest` (skips what is in it); "+
			"to go on where the group was: run with the log or topic that it was on", group, p.Topic),
	}
	if r.LogID != p.LogID {
		e.Code = "other-log"
		e.Cause = fmt.Sprintf("the sink has processed partition %s up to offset %s of another log, %s; this one is %s. Was the data directory deleted, `log:` changed, or the log migrated?", r.Partition, r.Next, r.LogID, p.LogID)
		return e
	}
	e.Code = "other-topic"
	e.Cause = fmt.Sprintf("the sink has processed partition %s up to offset %s of another topic of this name, with id %s; this one has id %s. Was the topic deleted and created again?", r.Partition, r.Next, r.TopicID, FormatUUID(p.TopicID))
	return e
}

// IsClassified reports whether err says already what it means for a consumer.
func IsClassified(err error) bool {
	for _, class := range []error{
		outrelay.ErrConfig, outrelay.ErrEnvironment, outrelay.ErrDataHalt, outrelay.ErrFenced, outrelay.ErrTransient, outrelay.ErrRecord,
		sinks.ErrAmbiguous, context.Canceled, ErrClosed,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// ParseVersion reads the value of schema_version in the table of that name (docs/format/offsets-tables.md), and refuses one above known.
func ParseVersion(place, value string, known int) (int, error) {
	v, err := strconv.Atoi(value)
	if err != nil || v < 0 {
		return 0, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "sink-tables", Place: place, Cause: fmt.Sprintf("schema_version is %q, not a number", value)}
	}
	if v > known {
		return 0, &outrelay.Error{
			Class: outrelay.ErrEnvironment, Code: "sink-tables-newer", Place: place,
			Cause: fmt.Sprintf("the tables are of version %d, this outrelay knows versions up to %d", v, known), Fix: "run the newer outrelay that upgraded them",
		}
	}
	return v, nil
}

// ScanInts parses the numbers of a row of text.
func ScanInts(row [][]byte, to map[int]*int64) error {
	for i, p := range to {
		v, err := strconv.ParseInt(string(row[i]), 10, 64)
		if err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
		*p = v
	}
	return nil
}

// FormatUUID writes a topic id as people do.
func FormatUUID(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseUUID reads what FormatUUID writes.
func ParseUUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return id, fmt.Errorf("topic id %q is no UUID", s)
	}
	return [16]byte(b), nil
}
