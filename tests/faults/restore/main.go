// Makes a data directory out of the database of a member, as `etcdutl snapshot restore --bump-revision --mark-compacted`
// does: restore DATABASE NAME DIRECTORY CLUSTER TOKEN PEER_URL BUMP.
package main

import (
	"fmt"
	"os"
	"strconv"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

func main() {
	if err := restore(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func restore(args []string) error {
	if len(args) != 7 {
		return fmt.Errorf("usage: restore DATABASE NAME DIRECTORY CLUSTER TOKEN PEER_URL BUMP")
	}
	bump, err := strconv.ParseUint(args[6], 10, 64)
	if err != nil {
		return err
	}
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        args[0],
		Name:                args[1],
		OutputDataDir:       args[2],
		InitialCluster:      args[3],
		InitialClusterToken: args[4],
		PeerURLs:            []string{args[5]},
		SkipHashCheck:       true,
		RevisionBump:        bump,
		MarkCompacted:       bump > 0,
	})
}
