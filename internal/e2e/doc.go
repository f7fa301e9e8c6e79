// Package e2e meets the real thing: the built binary as a process, Filebeat
// 7.17.29, go-lumber's client and the dialect of logstash-forwarder as its
// senders, and VirusTotal's stand-in behind it, all on loopback.
//
// Promise: what these tests say of the program was seen from outside, on the
// wire, in its files and in its system calls; nothing of the program's own
// code takes part. They need minutes and a built Filebeat, so they stand behind
// the build tag "real": make test-real.
package e2e
