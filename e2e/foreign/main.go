// Reads a Countersign log with the tools of Go's checksum database (golang.org/x/mod/sumdb), which
// share no code with it: opens the signed checkpoint, proves every entry's inclusion and every older
// checkpoint's consistency from the tiles, and checks proof files.
//
//	go run main.go LOG VKEY [PROOF.tlog-proof ENTRY]...
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Height of C2SP tiles (tlog-tiles): 2^8 hashes in a full one.
const height = 8

func main() {
	if len(os.Args) < 3 || len(os.Args)%2 == 0 {
		fail("usage: go run main.go LOG VKEY [PROOF ENTRY]...")
	}
	log := open(os.Args[1], os.Args[2])
	entries := log.proveEntries()
	checkpoints := log.proveCheckpoints()
	for i := 3; i < len(os.Args); i += 2 {
		log.checkProof(os.Args[i], os.Args[i+1])
	}
	fmt.Printf("ok: %d entries, %d checkpoints, %d proof files, root %s\n",
		entries, checkpoints, (len(os.Args)-3)/2, log.tree.Hash)
}

type logDir struct {
	dir      string
	verifier note.Verifier
	tree     tlog.Tree
}

func open(dir, vkey string) *logDir {
	verifier, err := note.NewVerifier(vkey)
	check(err, "the key")
	log := &logDir{dir: dir, verifier: verifier}
	log.tree = log.checkpoint(read(filepath.Join(dir, "checkpoint")))
	return log
}

// checkpoint opens a signed checkpoint (c2sp.org/tlog-checkpoint): origin, size, root.
func (log *logDir) checkpoint(msg []byte) tlog.Tree {
	signed, err := note.Open(msg, note.VerifierList(log.verifier))
	check(err, "a checkpoint")
	lines := strings.Split(signed.Text, "\n")
	if len(lines) != 4 || lines[0] != log.verifier.Name() || lines[3] != "" {
		fail("a checkpoint has other lines than origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, "a checkpoint's size")
	root, err := tlog.ParseHash(lines[2])
	check(err, "a checkpoint's root")
	return tlog.Tree{N: size, Hash: root}
}

func (log *logDir) Height() int                     { return height }
func (log *logDir) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles reads tiles below the paths of c2sp.org/tlog-tiles, which leave out Go's height.
func (log *logDir) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
		data[i] = read(filepath.Join(log.dir, path))
	}
	return data, nil
}

func (log *logDir) reader() tlog.HashReader { return tlog.TileHashReader(log.tree, log) }

// proveEntries checks the inclusion of every entry of every bundle.
func (log *logDir) proveEntries() int64 {
	index := int64(0)
	for n := int64(0); index < log.tree.N; n++ {
		width := log.tree.N - index
		if width > 1<<height {
			width = 1 << height
		}
		tile := tlog.Tile{H: height, L: -1, N: n, W: int(width)}
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/data/", height), "tile/entries/", 1)
		bundle := read(filepath.Join(log.dir, path))
		for ; width > 0; width-- {
			if len(bundle) < 2 {
				fail("%s ends early", path)
			}
			length := int(binary.BigEndian.Uint16(bundle))
			if len(bundle) < 2+length {
				fail("%s ends within entry %d", path, index)
			}
			log.included(index, bundle[2:2+length])
			bundle, index = bundle[2+length:], index+1
		}
	}
	return index
}

func (log *logDir) included(index int64, entry []byte) {
	proof, err := tlog.ProveRecord(log.tree.N, index, log.reader())
	check(err, fmt.Sprintf("the proof of entry %d", index))
	err = tlog.CheckRecord(proof, log.tree.N, log.tree.Hash, index, tlog.RecordHash(entry))
	check(err, fmt.Sprintf("entry %d", index))
}

// proveCheckpoints checks that the log extends each checkpoint that it ever signed.
func (log *logDir) proveCheckpoints() int {
	stored, err := filepath.Glob(filepath.Join(log.dir, "checkpoints", "*"))
	check(err, "the checkpoints")
	count := 0
	for _, path := range stored {
		old := log.checkpoint(read(path))
		count++
		if old.N == 0 {
			continue
		}
		proof, err := tlog.ProveTree(log.tree.N, old.N, log.reader())
		check(err, "the consistency with "+path)
		check(tlog.CheckTree(proof, log.tree.N, log.tree.Hash, old.N, old.Hash), path)
	}
	return count
}

// checkProof checks a proof file (c2sp.org/tlog-proof) for the entry in another file.
func (log *logDir) checkProof(path, entry string) {
	head, checkpoint, found := strings.Cut(string(read(path)), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || lines[0] != "c2sp.org/tlog-proof@v1" {
		fail("%s is no proof file", path)
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	check(err, path)
	var proof tlog.RecordProof
	for _, line := range lines[1:] {
		bytes, err := base64.StdEncoding.DecodeString(line)
		check(err, path)
		var hash tlog.Hash
		copy(hash[:], bytes)
		proof = append(proof, hash)
	}
	tree := log.checkpoint([]byte(checkpoint))
	check(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(read(entry))), path)
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	check(err, path)
	return data
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
