package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceRequest is a decoded Produce request. Its records alias the frame; nothing is allocated per record.
type produceRequest struct {
	version   int16
	txnID     *string
	acks      int16
	timeoutMs int32
	topics    []produceTopic
}

type produceTopic struct {
	name       string
	id         [16]byte // v13
	partitions []producePartition
	denied     *kerr.Error // by access control; set by guardProduce
}

type producePartition struct {
	index   int32
	records []byte
}

const produceFlexible = 9

// The methods of kmsg.Request, as far as the server's side needs them.

func (r *produceRequest) Key() int16                  { return 0 }
func (r *produceRequest) MaxVersion() int16           { return 13 }
func (r *produceRequest) SetVersion(v int16)          { r.version = v }
func (r *produceRequest) GetVersion() int16           { return r.version }
func (r *produceRequest) IsFlexible() bool            { return r.version >= produceFlexible }
func (r *produceRequest) AppendTo([]byte) []byte      { panic("BUG: produceRequest is only read") }
func (r *produceRequest) ResponseKind() kmsg.Response { return &produceResponse{version: r.version} }

// ReadFrom decodes a request body and keeps parts of it. It returns errFrame for whatever is not one.
func (r *produceRequest) ReadFrom(body []byte) error {
	b := reader{b: body}
	flexible := r.IsFlexible()
	if r.version >= 3 {
		if id := b.stringBytes(flexible); id != nil {
			r.txnID = new(string(id))
		}
	}
	r.acks = b.int16()
	r.timeoutMs = b.int32()
	r.topics = make([]produceTopic, b.arrayLen(flexible, produceTopicBytesMin(r.version)))
	for i := range r.topics {
		t := &r.topics[i]
		if r.version >= 13 {
			t.id = b.uuid()
		} else {
			t.name = string(b.stringBytes(flexible))
		}
		t.partitions = make([]producePartition, b.arrayLen(flexible, producePartitionBytesMin))
		for j := range t.partitions {
			p := &t.partitions[j]
			p.index = b.int32()
			p.records = b.bytes(flexible)
			b.tags(flexible, nil)
		}
		b.tags(flexible, nil)
		if b.bad {
			break
		}
	}
	b.tags(flexible, nil)
	return b.end()
}

// The fewest bytes that a topic and a partition of a request take: what bounds the arrays made for them.
const producePartitionBytesMin = 4 + 1

func produceTopicBytesMin(version int16) int {
	if version >= 13 {
		return 16 + 1 + 1
	}
	return 1 + 1 + 1
}

// produceResponse answers a Produce request. results has one element per partition of the request, in its order.
type produceResponse struct {
	version int16
	req     *produceRequest
	results []produceResult

	throttle int32 // milliseconds
}

// SetThrottle implements kmsg.SetThrottleResponse.
func (r *produceResponse) SetThrottle(millis int32) { r.throttle = millis }

// produceResult is the outcome for one partition.
type produceResult struct {
	base, logAppendTime, logStart int64
	code                          int16
	message                       string
	badRecord                     int32 // the record that is to blame; -1 for none
	done                          bool
}

func (r *produceResponse) Key() int16                { return 0 }
func (r *produceResponse) MaxVersion() int16         { return 13 }
func (r *produceResponse) SetVersion(v int16)        { r.version = v }
func (r *produceResponse) GetVersion() int16         { return r.version }
func (r *produceResponse) IsFlexible() bool          { return r.version >= produceFlexible }
func (r *produceResponse) ReadFrom([]byte) error     { panic("BUG: produceResponse is only written") }
func (r *produceResponse) RequestKind() kmsg.Request { return &produceRequest{version: r.version} }

// AppendTo appends the response body to b.
func (r *produceResponse) AppendTo(b []byte) []byte {
	flexible := r.IsFlexible()
	results := r.results
	b = appendLen(b, len(r.req.topics), flexible)
	for i := range r.req.topics {
		t := &r.req.topics[i]
		if r.version >= 13 {
			b = append(b, t.id[:]...)
		} else {
			b = appendString(b, t.name, flexible)
		}
		b = appendLen(b, len(t.partitions), flexible)
		for j := range t.partitions {
			b = results[j].appendTo(b, t.partitions[j].index, r.version)
		}
		results = results[len(t.partitions):]
		if flexible {
			b = append(b, 0)
		}
	}
	if r.version >= 1 {
		b = appendInt32(b, r.throttle)
	}
	if flexible {
		b = append(b, 0)
	}
	return b
}

func (p *produceResult) appendTo(b []byte, index int32, version int16) []byte {
	flexible := version >= produceFlexible
	b = appendInt32(b, index)
	b = appendInt16(b, p.code)
	b = appendInt64(b, p.base)
	if version >= 2 {
		b = appendInt64(b, p.logAppendTime)
	}
	if version >= 5 {
		b = appendInt64(b, p.logStart)
	}
	if version >= 8 {
		b = p.appendRecordErrors(b, flexible)
		var message *string
		if p.message != "" {
			message = &p.message
		}
		b = appendNullableString(b, message, flexible)
	}
	if flexible {
		b = append(b, 0) // current leader (KIP-951): only with more than one node
	}
	return b
}

// appendRecordErrors appends which record is to blame (KIP-467).
func (p *produceResult) appendRecordErrors(b []byte, flexible bool) []byte {
	if p.badRecord < 0 {
		return appendLen(b, 0, flexible)
	}
	b = appendLen(b, 1, flexible)
	b = appendInt32(b, p.badRecord)
	b = appendNullableString(b, &p.message, flexible)
	if flexible {
		b = append(b, 0)
	}
	return b
}
