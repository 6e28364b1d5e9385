package replica_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker/replica"
)

// partitionBlobV1 is what version 1 wrote: producer 7 with two batches, 8 with a marker, 9 with an open transaction.
const partitionBlobV1 = "01" + "0000000000000005" + "00000008" + "7365676d656e7473" + "0000000000001388" + "00000003" +
	"0000000000000007" + "0003" + "ffffffff" + "0000000000001388" + "ffffffffffffffff" + "0000000000000000" + "02" +
	"00000000" + "00000000" + "000000000000000a" + "ffffffffffffffff" + "00000001" + "00000001" + "000000000000000b" + "ffffffffffffffff" +
	"0000000000000008" + "0004" + "00000006" + "0000000000001388" + "ffffffffffffffff" + "0000000000000000" + "00" +
	"0000000000000009" + "0000" + "ffffffff" + "0000000000001388" + "000000000000000c" + "0000000000001388" + "01" +
	"00000000" + "00000000" + "000000000000000c" + "000000000000004d" +
	"00000008" + "6f62736572766564"

// A checkpoint of version 1 is read; what is written anew is version 2, which says of each producer when its last marker was: never.
func TestPartitionBlob_readsVersion1(t *testing.T) {
	t.Parallel()
	v1, err := hex.DecodeString(partitionBlobV1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := replica.ReencodePartition(v1)
	if err != nil {
		t.Fatal(err)
	}
	want := "02" + partitionBlobV1[2:]
	for _, coordinator := range []string{"0003ffffffff", "000400000006", "0000ffffffff0000000000001388000000000000000c"} {
		const head = 4 + 8 // epoch and coordinator epoch, in hex digits
		want = strings.Replace(want, coordinator, coordinator[:head]+"0000000000000000"+coordinator[head:], 1)
	}
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	v1[0] = 3
	if _, err := replica.ReencodePartition(v1); !errors.Is(err, replica.ErrVersion) {
		t.Errorf("version 3: %v", err)
	}
}
