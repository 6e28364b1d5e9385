package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

const fetchFlexible = 12

// fetchResponse answers a Fetch request. It is encoded by hand, so that record bytes go from where they were read to the socket
// without a copy.
type fetchResponse struct {
	version int16
	code    int16
	session int32
	reads   []*fetchRead // by topic: neighbours of one topic share an element of the answer
	held    int64        // of Server.fetchHeld, until it is sent

	throttle int32 // milliseconds
}

// SetThrottle implements kmsg.SetThrottleResponse.
func (r *fetchResponse) SetThrottle(millis int32) { r.throttle = millis }

func (r *fetchResponse) Key() int16                { return 1 }
func (r *fetchResponse) MaxVersion() int16         { return 17 }
func (r *fetchResponse) SetVersion(v int16)        { r.version = v }
func (r *fetchResponse) GetVersion() int16         { return r.version }
func (r *fetchResponse) IsFlexible() bool          { return r.version >= fetchFlexible }
func (r *fetchResponse) ReadFrom([]byte) error     { panic("BUG: fetchResponse is only written") }
func (r *fetchResponse) AppendTo([]byte) []byte    { panic("BUG: fetchResponse is written in pieces") }
func (r *fetchResponse) RequestKind() kmsg.Request { return &kmsg.FetchRequest{Version: r.version} }

// cut says that a partition's records belong after the first `at` bytes of the encoding.
type cut struct {
	at      int
	records piece
}

// appendPieces implements piecesResponse.
func (r *fetchResponse) appendPieces(b []byte) ([]piece, []byte) {
	flexible := r.IsFlexible()
	var cuts []cut
	b = appendInt32(b, r.throttle)
	if r.version >= 7 {
		b = appendInt16(b, r.code)
		b = appendInt32(b, r.session)
	}
	b = appendLen(b, countTopics(r.reads), flexible)
	for reads := r.reads; len(reads) > 0; {
		n := sameTopic(reads)
		b, cuts = r.appendTopic(b, cuts, reads[:n])
		reads = reads[n:]
	}
	if flexible {
		b = append(b, 0)
	}
	pieces := make([]piece, 0, 2*len(cuts)+1)
	from := 0
	for _, c := range cuts {
		pieces = append(pieces, piece{bytes: b[from:c.at:c.at]}, c.records)
		from = c.at
	}
	return append(pieces, piece{bytes: b[from:]}), b
}

func countTopics(reads []*fetchRead) (n int) {
	for len(reads) > 0 {
		reads = reads[sameTopic(reads):]
		n++
	}
	return n
}

// sameTopic returns how many of the first reads are of one topic.
func sameTopic(reads []*fetchRead) int {
	k := reads[0].part.key
	for i, r := range reads {
		if r.part.key.name != k.name || r.part.key.id != k.id {
			return i
		}
	}
	return len(reads)
}

func (r *fetchResponse) appendTopic(b []byte, cuts []cut, reads []*fetchRead) ([]byte, []cut) {
	flexible := r.IsFlexible()
	k := &reads[0].part.key
	if r.version >= 13 {
		b = append(b, k.id[:]...)
	} else {
		b = appendString(b, k.name, flexible)
	}
	b = appendLen(b, len(reads), flexible)
	for _, read := range reads {
		b = r.appendPartition(b, read)
		b = appendLen(b, read.res.Len(), flexible) // never null: librdkafka takes -1 for a broken answer
		if read.res.Len() > 0 {
			cuts = append(cuts, cut{len(b), piece{read.res.Bytes, read.res.Extent}})
		}
		if flexible {
			b = read.appendTags(b)
		}
	}
	if flexible {
		b = append(b, 0)
	}
	return b, cuts
}

// appendPartition appends what stands before a partition's records.
func (r *fetchResponse) appendPartition(b []byte, read *fetchRead) []byte {
	flexible := r.IsFlexible()
	b = appendInt32(b, read.part.key.index)
	b = appendInt16(b, read.code)
	b = appendInt64(b, read.res.HighWatermark)
	b = appendInt64(b, read.res.LastStable)
	if r.version >= 5 {
		b = appendInt64(b, read.res.LogStart)
	}
	if !read.committed || read.code != 0 {
		b = appendLen(b, -1, flexible)
	} else {
		b = appendLen(b, len(read.res.Aborted), flexible)
		for _, a := range read.res.Aborted {
			b = appendInt64(b, a.ProducerID)
			b = appendInt64(b, a.First)
			if flexible {
				b = append(b, 0)
			}
		}
	}
	if r.version >= 11 {
		b = appendInt32(b, -1) // preferred read replica
	}
	return b
}

// appendTags appends the tagged fields of a partition: the diverging epoch, where there is one.
func (read *fetchRead) appendTags(b []byte) []byte {
	if read.diverging == nil {
		return append(b, 0)
	}
	b = append(b, 1, 0, 4+8+1)
	b = appendInt32(b, read.diverging.epoch)
	b = appendInt64(b, read.diverging.end)
	return append(b, 0)
}
