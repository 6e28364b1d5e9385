package broker_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
)

// tableRow is a line of docs/compatibility.md: key, name, versions, and what there is to say.
var tableRow = regexp.MustCompile(`^\| (\d+) \| (\w+) \| ([^|]+) \| ([^|]+) \|$`)

// docs/compatibility.md lists every key of the protocol, once and in order, with the versions that are served, and a reason where there are none.
func TestCompatibility_tableIsTheCode(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	served := map[int]string{}
	for _, a := range broker.ServedAPIs() {
		served[int(a.Key)] = fmt.Sprintf("%d–%d", a.Min, a.Max)
		if a.Min == a.Max {
			served[int(a.Key)] = strconv.Itoa(int(a.Min))
		}
	}
	next := 0
	for line := range strings.SplitSeq(string(b), "\n") {
		m := tableRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		key, _ := strconv.Atoi(m[1])
		if key != next {
			t.Fatalf("key %d stands where key %d is expected", key, next)
		}
		next++
		want := served[key]
		if want == "" {
			want = "–"
		}
		if m[3] != want {
			t.Errorf("key %d, %s: the table says %q, ApiVersions says %q", key, m[2], m[3], want)
		}
		if want == "–" && len(m[4]) < len("see 76") {
			t.Errorf("key %d, %s: no reason why it is not served", key, m[2])
		}
	}
	if kmsg.RequestForKey(int16(next)) != nil || kmsg.RequestForKey(int16(next-1)) == nil {
		t.Errorf("the table ends at key %d, the protocol does not", next-1)
	}
}
