package main

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"net"
)

// Frames as clients send them, and as none should.

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func window(version byte, n uint32) []byte { return join([]byte{version, 'W'}, u32(n)) }

func jsonHeader(seq, length uint32) []byte { return join([]byte("2J"), u32(seq), u32(length)) }

func jsonFrame(seq uint32, doc string) []byte {
	return join(jsonHeader(seq, uint32(len(doc))), []byte(doc))
}

// dataFrame is a v1 event of keys and values in turn.
func dataFrame(seq uint32, pairs ...string) []byte {
	b := join([]byte("1D"), u32(seq), u32(uint32(len(pairs)/2)))
	for _, s := range pairs {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

func deflated(level int, dict []byte, parts ...[]byte) []byte {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevelDict(&b, level, dict)
	if err != nil {
		panic(err) // the level is one of ours
	}
	for _, p := range parts {
		_, _ = w.Write(p) // a bytes.Buffer takes everything
	}
	_ = w.Close()
	return b.Bytes()
}

func rawCompressed(version byte, stream []byte) []byte {
	return join([]byte{version, 'C'}, u32(uint32(len(stream))), stream)
}

func compressed(version byte, parts ...[]byte) []byte {
	return rawCompressed(version, deflated(3, nil, parts...))
}

// packed is a window of events as a Beat sends it.
func packed(events [][]byte) []byte {
	var frames [][]byte
	for i, e := range events {
		frames = append(frames, jsonHeader(uint32(i+1), uint32(len(e))), e)
	}
	return join(window('2', uint32(len(events))), compressed('2', frames...))
}

// windowOf is a v2 window of plain J frames numbered from 1.
func windowOf(docs ...string) []byte {
	b := window('2', uint32(len(docs)))
	for i, doc := range docs {
		b = append(b, jsonFrame(uint32(i+1), doc)...)
	}
	return b
}

// abort closes with a reset in place of a FIN.
func abort(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}
