package main

import (
	"log"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// clock reads the monotonic clock that all processes of this machine share, in nanoseconds.
func clock() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Fatal(err)
	}
	return now.Nano()
}

// times are nanoseconds, noted by callbacks.
type times struct {
	mutex sync.Mutex
	all   []int64
}

func (t *times) note(nanos int64) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.all = append(t.all, max(nanos, 0))
}

// summary has percentiles in microseconds.
type summary struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
}

func (t *times) summary() summary {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	slices.Sort(t.all)
	at := func(share float64) float64 {
		if len(t.all) == 0 {
			return 0
		}
		return float64(t.all[int(float64(len(t.all)-1)*share)]) / 1e3
	}
	return summary{Count: len(t.all), P50: at(0.5), P99: at(0.99), P999: at(0.999)}
}

// crawled is what the engine's own metrics say of its crawls.
type crawled struct {
	count   uint64
	seconds float64
	keys    int
}

func crawls() crawled {
	return crawled{
		count: histogram("rules_etcd_crawler_eval_seconds").GetSampleCount(),
		seconds: histogram("rules_etcd_crawler_query_seconds").GetSampleSum() +
			histogram("rules_etcd_crawler_eval_seconds").GetSampleSum(),
		keys: int(sum("rules_etcd_crawler_values_count", nil)),
	}
}

// took is the mean time of the crawls that have ended; empty if none has.
func (c crawled) took() []float64 {
	if c.count == 0 {
		return []float64{}
	}
	return []float64{c.seconds / float64(c.count)}
}

// firstCrawl waits until the first has ended.
func firstCrawl() crawled {
	for {
		if crawls := crawls(); crawls.count > 0 {
			return crawls
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// locksLost counts attempts to take a lock that took none.
func locksLost() int {
	return int(sum("rules_etcd_lock_count", map[string]string{"success": "false"}))
}

func histogram(name string) *dto.Histogram {
	for _, metric := range family(name) {
		return metric.GetHistogram()
	}
	return nil
}

// sum adds up counters and gauges that have these labels.
func sum(name string, labels map[string]string) float64 {
	total := 0.0
	for _, metric := range family(name) {
		fits := true
		for _, label := range metric.GetLabel() {
			wanted, asked := labels[label.GetName()]
			fits = fits && (!asked || wanted == label.GetValue())
		}
		if fits {
			total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	return total
}

func family(name string) []*dto.Metric {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()
		}
	}
	return nil
}

// logs has warnings and errors on standard error until it is told to be quiet: ends of watches are errors to it.
func logs() (*zap.Logger, func()) {
	var level atomic.Int32
	level.Store(int32(zapcore.WarnLevel))
	enabled := zap.LevelEnablerFunc(func(of zapcore.Level) bool { return int32(of) >= level.Load() })
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	core := zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), enabled)
	return zap.New(core), func() { level.Store(int32(zapcore.InvalidLevel)) }
}
