package relay

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/outrelay/outrelay"
)

// text returns the bytes of a column's value where it needs no decoding, and says booleans as Debezium does.
func (k kind) text(v []byte) []byte {
	if k == kindBool && len(v) == 1 {
		switch v[0] {
		case 't':
			return []byte("true")
		case 'f':
			return []byte("false")
		}
	}
	return v
}

// bytes returns the bytes that a value stands for: a bytea's own, anything else as the server prints it. The result may live in g's arena.
func (k kind) bytes(g *gather, v []byte) []byte {
	if k != kindBytea || v == nil {
		return v
	}
	if bytes.HasPrefix(v, []byte(`\x`)) {
		b := g.arena.reserve(hex.DecodedLen(len(v) - 2))
		out, err := hex.AppendDecode(b, v[2:])
		if err != nil {
			return v
		}
		return g.arena.take(out)
	}
	return g.arena.take(appendUnescaped(g.arena.reserve(len(v)), v))
}

// appendUnescaped decodes bytea_output = 'escape': \\ is a backslash, \ooo a byte in octal.
func appendUnescaped(b, v []byte) []byte {
	for i := 0; i < len(v); i++ {
		switch {
		case v[i] != '\\':
			b = append(b, v[i])
		case i+1 < len(v) && v[i+1] == '\\':
			b = append(b, '\\')
			i++
		case i+3 < len(v):
			b = append(b, (v[i+1]-'0')<<6|(v[i+2]-'0')<<3|(v[i+3]-'0'))
			i += 3
		}
	}
	return b
}

func (p *plan) idValue(g *gather, ev *outrelay.Event) []byte {
	return p.idKind.bytes(g, ev.Values[p.id])
}

// key returns the key column's value, or the aggregate id's where that is NULL, as EventRouter does.
func (p *plan) key(g *gather, ev *outrelay.Event) []byte {
	if v := ev.Values[p.keyCol]; v != nil || p.fallback < 0 {
		return p.keyKind.bytes(g, v)
	}
	return p.fallbackKind.bytes(g, ev.Values[p.fallback])
}

// value returns the payload's own bytes; nil, a tombstone, for NULL; an envelope where columns were placed there.
func (p *plan) value(g *gather, ev *outrelay.Event) ([]byte, error) {
	v := ev.Values[p.payload]
	if v == nil && !p.table.envelope {
		return nil, nil
	}
	if p.table.TombstoneOnEmpty && len(bytes.TrimSpace(v)) == 0 {
		return nil, nil
	}
	if p.table.envelope {
		return p.envelope(ev)
	}
	return p.payloadKind.bytes(g, v), nil
}

// envelope is what EventRouter with the JSON converter (schemas off) makes: {"payload":…, alias:…}.
func (p *plan) envelope(ev *outrelay.Event) ([]byte, error) {
	v := ev.Values[p.payload]
	b := append(make([]byte, 0, len(v)+len(v)/8+64), `{"payload":`...)
	switch {
	case p.payloadKind == kindBytea:
		return nil, &unroutable{code: "binary-envelope", cause: "a bytea payload cannot stand in a JSON envelope",
			fix: "place the further columns in headers"}
	case v != nil && p.table.ExpandJSON:
		if !json.Valid(v) {
			return nil, &unroutable{code: "bad-json", cause: fmt.Sprintf("the payload %q is no JSON, and expand_json asks for it", clip(v)),
				fix: "turn expand_json off, or correct the rows"}
		}
		b = append(b, v...)
	default:
		b = appendJSONValue(b, kindText, v)
	}
	for i := range p.additional {
		if a := &p.additional[i]; a.where == PlaceEnvelope {
			b = append(b, ',')
			b = appendJSONString(b, []byte(a.alias))
			b = append(b, ':')
			b = appendJSONValue(b, a.kind, ev.Values[a.col])
		}
	}
	return append(b, '}'), nil
}

func appendJSONValue(b []byte, k kind, v []byte) []byte {
	switch {
	case v == nil:
		return append(b, "null"...)
	case k == kindNumber && json.Valid(v), k == kindBool:
		return append(b, k.text(v)...)
	}
	return appendJSONString(b, v)
}
