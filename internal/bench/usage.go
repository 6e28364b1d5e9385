package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is how much processor time the machine, and how much this process with all its descendants have used since they started.
type usage struct {
	at        time.Time
	busy, own time.Duration
}

// others returns the share of the machine's processors that processes outside of the run took since u: how far its figures are to be trusted.
func (u usage) others(now usage, cores int) float64 {
	all := now.at.Sub(u.at) * time.Duration(cores)
	if all <= 0 {
		return 0
	}
	return max(0, float64((now.busy-u.busy)-(now.own-u.own))/float64(all))
}

func readUsage() usage {
	return usage{at: time.Now(), busy: machineBusy(), own: treeCPU(os.Getpid())}
}

// machineBusy adds up everything that is neither idle nor waiting for the disk.
func machineBusy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	total := time.Duration(0)
	for i, f := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 { // its name, idle, iowait, guests (counted as user already)
			continue
		}
		total += ticks(f)
	}
	return total
}

// treeCPU adds up a process and its descendants, those that have ended and were waited for included.
func treeCPU(root int) time.Duration {
	type proc struct {
		ppid int
		cpu  time.Duration
	}
	procs := map[int]proc{}
	names, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, name := range names {
		f, pid := statFields(name)
		if len(f) < 15 {
			continue // it has ended
		}
		ppid, _ := strconv.Atoi(f[1])
		procs[pid] = proc{ppid, ticks(f[11]) + ticks(f[12]) + ticks(f[13]) + ticks(f[14])}
	}
	total := time.Duration(0)
	for pid := range procs {
		for p := pid; p > 1; p = procs[p].ppid {
			if p == root {
				total += procs[pid].cpu
				break
			}
		}
	}
	return total
}

// statFields returns what follows a process's name in /proc/PID/stat, its state first, and its id.
func statFields(name string) (fields []string, pid int) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, 0
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndex(s, ") ")
	if open < 0 || end < 0 {
		return nil, 0
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(s[:open]))
	return strings.Fields(s[end+2:]), pid
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

func ticks(field string) time.Duration {
	n, _ := strconv.ParseInt(field, 10, 64)
	return time.Duration(n) * time.Second / ticksPerSecond
}

// cpuOf returns the processor time that a process has used, its threads included, not its children.
func cpuOf(pid int) time.Duration {
	f, _ := statFields("/proc/" + strconv.Itoa(pid) + "/stat")
	if len(f) < 13 {
		return 0
	}
	return ticks(f[11]) + ticks(f[12])
}
