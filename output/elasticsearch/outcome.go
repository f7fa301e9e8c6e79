package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"vtsidecar/internal/finding"
)

// This file is the one place that knows what an answer means. Its rule: what is
// not surely the document's own fault is tried again, for ever; what is not
// surely stored is not.

// verdict is what becomes of an item.
type verdict uint8

const (
	stored  verdict = iota // the cluster has the document
	again                  // the item is tried again, alone
	outage                 // the same, but the operator must mend something first
	refused                // the document's own fault, or of a place it chose: to the dead letter
)

// outcome is a verdict with its reason: a label of metrics, from a small fixed set.
type outcome struct {
	verdict verdict
	reason  string
	setting string // of an outage: the setting at fault; empty: none
	fixed   bool   // tried again every 30 s rather than with growing pauses
	odd     bool   // of a request: one event in it may be what something between does not let pass
}

const (
	reasonCreated    = "created"
	reasonExists     = "exists"
	reasonFailed     = "failure_store"
	reasonBusy       = "busy"
	reasonServer     = "server_error"
	reasonConflict   = "conflict"
	reasonBlock      = "block"
	reasonPrivilege  = "privilege"
	reasonShards     = "shards"
	reasonPipeline   = "pipeline"
	reasonIndex      = "index"
	reasonDocument   = "refused"
	reasonTooLarge   = "too_large"
	reasonUnreached  = "unreachable"
	reasonTimeout    = "timeout"
	reasonUnreadable = "unreadable"
	reasonRenamed    = "other_id"
	reasonRedirect   = "redirect"
	reasonStatus     = "unexpected_status"
	reasonExplicit   = "explicit_index"
	reasonDoubt      = "unproven_conflict"
)

// itemOutcomes are the reasons of items, for the metric that has one series each.
var itemOutcomes = []struct{ outcome, reason string }{
	{"stored", reasonCreated}, {"stored", reasonExists}, {"stored", reasonFailed},
	{"retried", reasonBusy}, {"retried", reasonServer}, {"retried", reasonConflict}, {"retried", reasonDoubt},
	{"retried", reasonBlock}, {"retried", reasonShards}, {"retried", reasonPrivilege}, {"retried", reasonPipeline}, {"retried", reasonIndex}, {"retried", reasonStatus},
	{"refused", reasonDocument}, {"refused", reasonPipeline}, {"refused", reasonIndex}, {"refused", reasonTooLarge},
}

// item says what becomes of an item that was answered so, on a route. The table
// is that of docs/elasticsearch.md, in its order.
func (r *route) item(a *answer) outcome {
	const conflict = "version_conflict_engine_exception"
	switch s := a.status; {
	// The cluster has been told to keep there what it cannot index.
	case s < 300 && a.failed:
		return outcome{verdict: stored, reason: reasonFailed}
	case s < 300:
		return outcome{verdict: stored, reason: reasonCreated}

	// Under the event's identity something is stored already: the event.
	case s == http.StatusConflict && r.Op == "create" && a.typ == conflict:
		return outcome{verdict: stored, reason: reasonExists}
	// Of another operation, or of another kind, it says nothing of the sort.
	case s == http.StatusConflict && a.typ == conflict:
		return outcome{verdict: again, reason: reasonConflict}
	case s == http.StatusConflict:
		return outcome{verdict: again, reason: reasonDoubt}

	// An operator, or a full disk, has closed the index for writing.
	case (s == http.StatusForbidden || s == http.StatusTooManyRequests) && a.typ == "cluster_block_exception":
		return outcome{verdict: outage, reason: reasonBlock}
	case s == http.StatusForbidden || s == http.StatusUnauthorized:
		return outcome{verdict: outage, reason: reasonPrivilege, fixed: true}

	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout:
		return outcome{verdict: again, reason: reasonBusy}
	// A pipeline's fail processor is how its author refuses a document; OpenSearch,
	// and Elasticsearch in some versions, make a 500 of it.
	case s == http.StatusInternalServerError && a.typ == "fail_processor_exception":
		return outcome{verdict: refused, reason: reasonDocument}
	case s >= 500 || s < 400: // no item is redirected
		return outcome{verdict: again, reason: reasonServer}
	}

	// No new index can be made, whoever names it, until an operator makes room.
	if a.typ == "validation_exception" && strings.Contains(a.reason, "this action would add [") {
		return outcome{verdict: outage, reason: reasonShards}
	}

	// What is left is 4xx: the document's own fault, unless the place is at fault.
	// If the settings name the place, every event has it; else the event chose it.
	pipeline, index := placeAtFault(a)
	if pipeline && !strings.Contains(a.reason, "pipeline with id ["+r.Pipeline+"]") {
		pipeline, index = false, true // it is one that the index's own settings name
	}
	switch {
	case pipeline && r.pipelineSetting != "":
		return outcome{verdict: outage, reason: reasonPipeline, setting: r.pipelineSetting}
	case pipeline:
		return outcome{verdict: refused, reason: reasonPipeline}
	case index && r.indexSetting != "":
		return outcome{verdict: outage, reason: reasonIndex, setting: r.indexSetting}
	case index:
		return outcome{verdict: refused, reason: reasonIndex}
	case a.status == http.StatusRequestEntityTooLarge:
		return outcome{verdict: refused, reason: reasonTooLarge}
	}
	return outcome{verdict: refused, reason: reasonDocument}
}

// placeAtFault reports whether the pipeline or the index does not exist or takes
// nothing. Where both engines give only the type illegal_argument_exception,
// their words decide (the same in Elasticsearch 7 to 9 and OpenSearch 1 to 3).
func placeAtFault(a *answer) (pipeline, index bool) {
	switch a.typ {
	case "index_not_found_exception", "index_closed_exception", "invalid_index_name_exception", "invalid_alias_name_exception", "alias_not_found_exception":
		return false, true
	case "illegal_argument_exception":
	default:
		return false, false
	}
	// From its first word: further on a reason may quote the event, which then
	// would hold up everything that goes to the same place.
	begins := func(words string) bool { return strings.HasPrefix(a.reason, words) }
	switch {
	case begins("pipeline with id [") && strings.HasSuffix(a.reason, "] does not exist"):
		return true, false
	case begins("no write index is defined for alias ["),
		begins("only write ops with an op_type of create are allowed in data streams"):
		return false, true
	}
	return false, false
}

// noShard is the type of an item's error after the cluster has waited for a shard
// that no node has.
const noShard = "unavailable_shards_exception"

// retryAuth is the pause after an answer that only an operator can change.
const retryAuth = 30 * time.Second

// noExplicitIndex is said by a cluster that refuses every bulk which names its
// indices.
const noExplicitIndex = "explicit index in bulk is not allowed"

// request says what becomes of a bulk request that was answered with a status
// other than 200.
func request(status int, body []byte) outcome {
	switch {
	case (status == http.StatusForbidden || status == http.StatusTooManyRequests) && isBlock(body):
		return outcome{verdict: outage, reason: reasonBlock}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		typ, _ := requestError(body) // a firewall's page has none
		return outcome{verdict: outage, reason: reasonPrivilege, fixed: true, odd: status == http.StatusForbidden && typ == ""}
	case status == http.StatusRequestEntityTooLarge:
		return outcome{verdict: refused, reason: reasonTooLarge}
	case status == http.StatusTooManyRequests:
		return outcome{verdict: again, reason: reasonBusy}
	case status >= 500:
		return outcome{verdict: again, reason: reasonServer}
	case status >= 300 && status < 400:
		return outcome{verdict: outage, reason: reasonRedirect}
	case status == http.StatusBadRequest && saysFirst(body, noExplicitIndex):
		return outcome{verdict: outage, reason: reasonExplicit}
	case status == http.StatusBadRequest && blamesAction(requestError(body)):
		return outcome{verdict: refused, reason: reasonDocument}
	}
	return outcome{verdict: outage, reason: reasonStatus, odd: status >= 400}
}

func saysFirst(body []byte, words string) bool {
	_, reason := requestError(body)
	return strings.HasPrefix(reason, words)
}

func isBlock(body []byte) bool {
	typ, _ := requestError(body)
	return typ == "cluster_block_exception"
}

// blamesAction reports whether the error of a whole request is about what one of
// its lines says, in the words that both engines have for that (Elasticsearch
// 8.19, OpenSearch 2.19). Only then is an event to blame, and waiting would hold
// its window for ever.
//
// Everything else that is 400 may come from something between, a proxy or a
// firewall, which may answer in JSON as well, or be about the request: a body that
// was cut off or lost on the way (every body of ours ends with a newline), a
// parameter that is not known there. No event is given up for that.
func blamesAction(typ, reason string) bool {
	switch typ {
	case "action_request_validation_exception", // such as an _id that is too long
		"x_content_parse_exception", "x_content_e_o_f_exception", "json_parse_exception", "json_e_o_f_exception":
		return true
	case "illegal_argument_exception":
		return strings.HasPrefix(reason, "Malformed action/metadata line [") || strings.HasPrefix(reason, "Action/metadata line [")
	}
	return false
}

// words say what a request was answered with, and the mend.
func (o outcome) words(resp *Response) string {
	switch o.reason {
	case reasonPrivilege:
		return fmt.Sprintf("%s answers %d: the credentials are wrong or may not write; mend output.elasticsearch.api_key, .username and .password or .bearer_token", resp.Host, resp.Status)
	case reasonRedirect:
		return fmt.Sprintf("output.elasticsearch.hosts: %s answers %d and wants to send the request elsewhere, which is never followed: name the right host", resp.Host, resp.Status)
	case reasonBlock:
		return fmt.Sprintf("%s answers %d: the whole cluster is blocked for writing; lift the block (cluster.blocks.*), or make room on its disks", resp.Host, resp.Status)
	case reasonExplicit:
		return fmt.Sprintf("%s answers 400: events may name no index there; set rest.action.multi.allow_explicit_index to true in its own settings", resp.Host)
	case reasonBusy:
		return fmt.Sprintf("%s answers 429: it has more to do than it can", resp.Host)
	case reasonServer:
		return fmt.Sprintf("%s answers %d: it has a fault of its own", resp.Host, resp.Status)
	}
	if resp.Status == http.StatusProxyAuthRequired {
		return finding.ProxyCredentials("output.elasticsearch")
	}
	return fmt.Sprintf("output.elasticsearch.hosts: %s answers %d to a bulk request: is it Elasticsearch or OpenSearch?", resp.Host, resp.Status)
}

// unanswered is a request without an answer, as a label and in words.
func unanswered(err error) (reason, words string) {
	reason = reasonUnreached
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = reasonTimeout
	}
	if errors.Is(err, ErrAnswerTooLong) {
		reason = reasonUnreadable
	}
	return reason, "output.elasticsearch.hosts: no answer: " + err.Error()
}

// outage is what an operator must see to, in words.
func (it *item) outage() string {
	index := strconv.Quote(it.route.Index)
	switch result := &it.result; {
	case result.setting == "output.elasticsearch.pipeline":
		return fmt.Sprintf("%s: there is no pipeline %s: make it, or mend the setting", result.setting, strconv.Quote(it.route.Pipeline))
	case result.setting != "":
		return fmt.Sprintf("%s: index %s is missing, closed, or takes no such operation, or its default pipeline is missing (%s): mend that, or the setting", result.setting, index, it.typ)
	case result.reason == reasonPrivilege:
		return fmt.Sprintf("index %s: the credentials may not write to it (%s): give them the privilege", index, it.typ)
	case result.reason == reasonShards:
		return fmt.Sprintf("index %s cannot be made: the cluster has as many shards as it may have (%s): delete old indices, or raise cluster.max_shards_per_node", index, it.typ)
	}
	return fmt.Sprintf("index %s is blocked for writing (%s): lift the block, or make room on the cluster's disks", index, it.typ)
}
