// go-etcd-rules as the side that is measured: a process that the harness of `benches/etcd` starts, with the
// same works, on the same lines of JSON, as it starts this crate's engine.
//
//	peer --child '{"side":{"Peer":"Best"},"endpoint":"127.0.0.1:2379","work":{"Stream":{"lock":"Own"}}}'
//
// It says when it is ready, works until its standard input ends, and says what it saw.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"github.com/IBM-Cloud/go-etcd-rules/rules"
	v3 "go.etcd.io/etcd/client/v3"
)

// ready is what the harness reads first.
type ready struct {
	Seconds float64 `json:"seconds"`
	Keys    int     `json:"keys"`
}

// outcome is what the harness reads last.
type outcome struct {
	Latency summary   `json:"latency"`
	Crawls  []float64 `json:"crawls"`
	Slowed  int       `json:"slowed"`
	Lost    int       `json:"lost"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 || os.Args[1] != "--child" {
		log.Fatal("usage: peer --child SPECIFICATION")
	}
	asked, err := parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := run(asked); err != nil {
		log.Fatal(err)
	}
}

func run(asked spec) error {
	begin := time.Now()
	client, err := v3.New(v3.Config{Endpoints: []string{asked.Endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	logger, quiet := logs()
	engine := rules.NewV3EngineWithClient(client, logger, asked.options()...)
	times := &times{}
	if err := addRules(engine, asked, client, times); err != nil {
		return err
	}
	engine.Run()
	said := ready{}
	if asked.Work.waitsForCrawl() {
		first := firstCrawl()
		said = ready{Seconds: time.Since(begin).Seconds(), Keys: first.keys}
	}
	// Its watches, of which it says nothing, open meanwhile.
	time.Sleep(500 * time.Millisecond)
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	quiet()
	// First what was measured: a shutdown may take longer than anybody waits.
	ended := outcome{Latency: times.summary(), Crawls: crawls().took(), Lost: locksLost()}
	if err := json.NewEncoder(os.Stdout).Encode(ended); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := engine.Shutdown(limited); err != nil {
		// It may hang; that says nothing of what was measured.
		log.Printf("the peer's shutdown: %v", err)
	}
	return nil
}
