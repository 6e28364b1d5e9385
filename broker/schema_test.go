package broker_test

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
)

// fill sets every field of v to something random that encodes.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if r.IntN(4) == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			if r.IntN(3) == 0 {
				t := v.Addr().Interface().(*kmsg.Tags)
				t.Set(1000+r.Uint32N(10), []byte("x"))
				t.Set(2000+r.Uint32N(10), nil)
			}
			return
		}
		for i := range v.NumField() {
			fill(r, v.Field(i), depth)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(make([]byte, r.IntN(40)))
			return
		}
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), depth)
		}
	case reflect.String:
		v.SetString("abcdefghijklmnopqrstuvwxyz"[:r.IntN(20)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(100)))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(r.IntN(100)))
	}
}

// randomBody returns the body of a random request.
func randomBody(r *rand.Rand, key, version int16) []byte {
	req := kmsg.RequestForKey(key)
	fill(r, reflect.ValueOf(req).Elem(), 0)
	req.SetVersion(version)
	if f, ok := req.(*kmsg.FetchRequest); ok && version < 15 {
		f.ReplicaState = kmsg.NewFetchRequestReplicaState()
	}
	return req.AppendTo(nil)
}

// Every API that is served has a schema that agrees with the decoder, to the byte.
func TestSchemas_agreeWithDecoder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, a := range broker.ServedAPIs() {
		if a.Key == 0 {
			continue // Produce has its own decoder
		}
		for version := a.Min; version <= a.Max; version++ {
			for range 200 {
				body := randomBody(r, a.Key, version)
				if err := broker.CheckSchema(a.Key, version, body); err != nil {
					t.Fatalf("%s v%d: whole request refused: %v\n%x", kmsg.NameForKey(a.Key), version, err, body)
				}
				if err := broker.CheckSchema(a.Key, version, append(body[:len(body):len(body)], 0)); err == nil {
					t.Fatalf("%s v%d: a trailing byte was accepted (B74)", kmsg.NameForKey(a.Key), version)
				}
				if len(body) > 0 && broker.CheckSchema(a.Key, version, body[:r.IntN(len(body))]) == nil {
					t.Fatalf("%s v%d: a cut request was accepted (B72)\n%x", kmsg.NameForKey(a.Key), version, body)
				}
			}
		}
	}
}

// Our decoder of Produce agrees with kmsg's encoder.
func TestProduceDecoder_agreesWithEncoder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for version := int16(0); version <= 13; version++ {
		for range 300 {
			body := randomBody(r, 0, version)
			frame := append(headerTail(kmsg.RequestForKey(0), version), body...)
			if _, err := broker.DecodeRequest(0, version, frame); err != nil {
				t.Fatalf("v%d: %v\n%x", version, err, body)
			}
			if _, err := broker.DecodeRequest(0, version, append(frame, 0)); err == nil {
				t.Fatalf("v%d: a trailing byte was accepted (B74)", version)
			}
		}
	}
}

// headerTail returns what of a request header follows its first 8 bytes.
func headerTail(req kmsg.Request, version int16) []byte {
	req.SetVersion(version)
	if req.IsFlexible() {
		return []byte{0, 1, 'c', 0}
	}
	return []byte{0, 1, 'c'}
}

func TestSchema_refuses(t *testing.T) {
	t.Parallel()
	huge := []byte{0x7f, 0xff, 0xff, 0xff}
	for _, c := range []struct {
		name    string
		key     int16
		version int16
		body    []byte
	}{
		{"B71 array length 2^31-1", 3, 1, huge},
		{"B71 array length -2", 3, 1, []byte{0xff, 0xff, 0xff, 0xfe}},
		{"B71 array longer than the frame", 3, 1, []byte{0, 0, 0, 9, 0, 1, 'a'}},
		{"B71 compact varint of 6 bytes", 3, 9, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x00}},
		{"B71 compact varint of 33 bits", 3, 9, []byte{0xff, 0xff, 0xff, 0xff, 0x1f}},
		{"B72 string beyond the frame", 3, 1, []byte{0, 0, 0, 1, 0x7f, 0xff, 'a'}},
		{"B72 string of 32,768 bytes", 12, 4, append(append([]byte{0x81, 0x80, 0x02}, make([]byte, 1<<15)...), 0, 0, 0, 0, 1, 0, 0)},
		{"B73 tag twice", 12, 4, []byte{1, 0, 0, 0, 0, 1, 0, 2, 5, 0, 5, 0}},
		{"B73 tags out of order", 12, 4, []byte{1, 0, 0, 0, 0, 1, 0, 2, 6, 0, 5, 0}},
		{"B73 4 billion tags", 12, 4, []byte{1, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"B74 trailing bytes", 3, 1, []byte{0, 0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := broker.CheckSchema(c.key, c.version, c.body); err == nil {
				t.Errorf("%x was accepted", c.body)
			}
		})
	}
	longest := append(append([]byte{0x80, 0x80, 0x02}, make([]byte, 1<<15-1)...), 0, 0, 0, 0, 1, 0, 0)
	if err := broker.CheckSchema(12, 4, longest); err != nil {
		t.Errorf("a string of 32,767 bytes: %v", err)
	}
	ok := []byte{1, 0, 0, 0, 0, 1, 0, 2, 5, 1, 'x', 6, 0} // unknown tags are skipped
	if err := broker.CheckSchema(12, 4, ok); err != nil {
		t.Errorf("unknown tagged fields: %v", err)
	}
}

// FuzzRequest: whatever comes in a frame decodes or is refused, without a panic and without memory out of proportion.
func FuzzRequest(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, a := range broker.ServedAPIs() {
		for version := a.Min; version <= a.Max; version++ {
			f.Add(a.Key, version, append(headerTail(kmsg.RequestForKey(a.Key), version), randomBody(r, a.Key, version)...))
		}
	}
	f.Add(int16(3), int16(1), []byte{0, 0, 0x7f, 0xff, 0xff, 0xff})
	f.Add(int16(12), int16(4), []byte{0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, key, version int16, frame []byte) {
		req, err := broker.DecodeRequest(key, version, frame)
		if (req == nil) == (err == nil) {
			t.Fatalf("request %v, error %v", req, err)
		}
	})
}

// The hot path allocates by request and partition, never by record.
func TestProduceDecoder_allocatesNothingPerRecord(t *testing.T) {
	decode := func(values ...string) float64 {
		req := produceRequest("t", 0, plainBatch(values...))
		frame := append(headerTail(req, 9), req.AppendTo(nil)...)
		return testing.AllocsPerRun(100, func() {
			if err := broker.DecodeProduce(9, frame); err != nil {
				t.Fatal(err)
			}
		})
	}
	one, many := decode("v"), decode(make([]string, 10_000)...)
	if one != many || one > 10 {
		t.Errorf("%v allocations for one record, %v for 10,000", one, many)
	}
}

// librdkafka 2.16 asks for all topics with three bytes too many; nothing else may be too long (B74).
func TestSchemas_allTopicsOfLibrdkafka(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		body []byte
		ok   bool
	}{
		{"as it should be", []byte{0, 1, 0, 0}, true},
		{"as librdkafka sends it", []byte{0, 0, 0, 0, 1, 0, 0}, true},
		{"a byte more", []byte{0, 0, 0, 0, 1, 0, 0, 0}, false},
		{"no topics, three bytes more", []byte{1, 0, 0, 0, 1, 0, 0}, false},
	} {
		if err := broker.CheckSchema(3, 13, c.body); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
