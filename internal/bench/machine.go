package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/internal/vfs"
)

// Machine is where the figures come from.
type Machine struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryGB float64 `json:"memory_gb"`
	Kernel   string  `json:"kernel"`
	Go       string  `json:"go"`
	Postgres string  `json:"postgres,omitempty"`
	Disk     Disk    `json:"disk"`
	Others   float64 `json:"others"` // share of all cores that processes outside of the run took meanwhile
}

// Disk is what one fdatasync of 1 KiB after the other takes in a file that is already written, as a recycled WAL file is.
type Disk struct {
	P50MS  float64 `json:"fdatasync_p50_ms"`
	P99MS  float64 `json:"fdatasync_p99_ms"`
	PerSec float64 `json:"fdatasync_per_second"`
}

func describeMachine(dir, pg string) (Machine, error) {
	d, err := measureDisk(dir, 1000)
	return Machine{CPU: cpuModel(), Cores: runtime.NumCPU(), MemoryGB: memoryGB(), Kernel: kernel(), Go: runtime.Version(), Postgres: pg, Disk: d}, err
}

func (m Machine) rows() [][2]string {
	rows := [][2]string{
		{"CPU", fmt.Sprintf("%s, %d cores, shared by everything that was measured, the load included", m.CPU, m.Cores)},
		{"memory", fmt.Sprintf("%.0f GiB", m.MemoryGB)},
		{"disk", fmt.Sprintf("fdatasync of 1 KiB: p50 %.2f ms, p99 %.2f ms, %s a second one after the other", m.Disk.P50MS, m.Disk.P99MS, num(m.Disk.PerSec))},
		{"other processes", fmt.Sprintf("took %.0f %% of the cores while this was measured", 100*m.Others)},
		{"kernel", m.Kernel}, {"Go", m.Go},
	}
	if m.Postgres != "" {
		rows = append(rows, [2]string{"PostgreSQL", m.Postgres})
	}
	return rows
}

// Line is the machine in one line.
func (m Machine) Line() string {
	s := fmt.Sprintf("%s, %d cores, %.0f GiB, fdatasync p50 %.2f ms, Linux %s, %s", m.CPU, m.Cores, m.MemoryGB, m.Disk.P50MS, m.Kernel, m.Go)
	if m.Postgres != "" {
		s += ", PostgreSQL " + m.Postgres
	}
	return s + fmt.Sprintf("; other processes took %.0f %% of the cores", 100*m.Others)
}

// diskFileBytes is large enough that the writes do not fall on one page.
const diskFileBytes = 16 << 20

// measureDisk writes 1 KiB and syncs, n times, one after the other, in a file that was written before.
func measureDisk(dir string, n int) (Disk, error) {
	fs := vfs.OS{}
	name := filepath.Join(dir, "fdatasync")
	f, err := fs.Create(name)
	if err != nil {
		return Disk{}, err
	}
	defer func() {
		_ = f.Close() // it goes with the directory
		_ = fs.Remove(name)
	}()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < diskFileBytes; at += int64(len(buf)) {
		if _, err := f.WriteAt(buf, at); err != nil {
			return Disk{}, err
		}
	}
	if err := f.Sync(); err != nil {
		return Disk{}, err
	}
	times := make([]float64, n)
	began := time.Now()
	for i := range times {
		buf[0] = byte(i)
		one := time.Now()
		if _, err := f.WriteAt(buf[:1024], int64(i)*1024%diskFileBytes); err != nil {
			return Disk{}, err
		}
		if err := f.Sync(); err != nil {
			return Disk{}, err
		}
		times[i] = ms(time.Since(one))
	}
	took := time.Since(began)
	return Disk{P50MS: quantile(times, 0.5), P99MS: quantile(times, 0.99), PerSec: float64(n) / took.Seconds()}, nil
}

func cpuModel() string {
	if v := lineOf("/proc/cpuinfo", "model name"); v != "" {
		return v
	}
	return runtime.GOARCH
}

func memoryGB() float64 {
	kb, _ := strconv.ParseFloat(strings.TrimSuffix(lineOf("/proc/meminfo", "MemTotal"), " kB"), 64)
	return kb / (1 << 20)
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return strings.TrimSpace(string(b))
}

// lineOf returns the value of the first line "key: value" of a file of /proc, empty when there is none.
func lineOf(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
