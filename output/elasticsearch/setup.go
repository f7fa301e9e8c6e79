package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// Change is what has to be done about a template.
type Change struct {
	Kind   string   `json:"kind"` // "_component_template" or "_index_template"
	Name   string   `json:"name"`
	Action string   `json:"action"`         // "create", "update" or "none"
	Diff   []string `json:"diff,omitempty"` // of an update: lines that begin with + or -
}

// Plan compares templates with those of the cluster. It changes nothing. A
// template of the same name that is not the program's own is an error.
func Plan(ctx context.Context, doer Doer, templates ...Template) ([]Change, error) {
	var changes []Change
	for _, t := range templates {
		c := Change{Kind: t.Kind, Name: t.Name, Action: "create"}
		have, err := current(ctx, doer, t)
		if err != nil {
			return nil, err
		}
		if have != nil {
			meta, _ := have["_meta"].(object)
			if meta["managed_by"] != managedBy {
				return nil, fmt.Errorf("%s/%s exists and is not vtsidecar's own: rename or remove it, and put its mapping into a template of another name", t.Kind, t.Name)
			}
			c.Action = "none"
			// Their order is not kept by every server.
			if diff("", texts(have), plain(t.Body), &c.Diff); len(c.Diff) > 0 {
				c.Action = "update"
			}
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// Apply carries a plan out, in its order.
func Apply(ctx context.Context, doer Doer, changes []Change, templates ...Template) error {
	for i, c := range changes {
		if c.Action == "none" {
			continue
		}
		body, err := json.Marshal(templates[i].Body)
		if err != nil {
			return err
		}
		resp, err := doer.Do(ctx, &Request{Method: http.MethodPut, Path: "/" + c.Kind + "/" + url.PathEscape(c.Name), Body: body})
		if err != nil {
			return fmt.Errorf("put %s/%s: %w", c.Kind, c.Name, err)
		}
		if resp.Status != http.StatusOK {
			return fmt.Errorf("put %s/%s: %w", c.Kind, c.Name, refusal(resp))
		}
	}
	return nil
}

// refusal is a status and the cluster's own words. They are about templates and
// settings, never about an event.
func refusal(resp *Response) error {
	if resp.Status == http.StatusUnauthorized {
		return fmt.Errorf("%s answers 401: the credentials are wrong; mend output.elasticsearch.api_key, .username and .password or .bearer_token", resp.Host)
	}
	if typ, reason := requestError(resp.Body); typ != "" {
		return fmt.Errorf("%s answers %d %s: %s", resp.Host, resp.Status, typ, readable(reason, 1000))
	}
	return fmt.Errorf("%s answers %d", resp.Host, resp.Status)
}

// get asks and decodes; nil where there is nothing of that name.
func get(ctx context.Context, doer Doer, path string) (object, error) {
	resp, err := doer.Do(ctx, &Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	return decoded(resp)
}

// decoded is an answer; nil where it says that there is nothing of that name.
func decoded(resp *Response) (object, error) {
	switch {
	case resp.Status == http.StatusNotFound:
		return nil, nil
	case resp.Status != http.StatusOK:
		return nil, refusal(resp)
	}
	var o object
	if err := json.Unmarshal(resp.Body, &o); err != nil {
		return nil, fmt.Errorf("%s: its answer is no JSON object: is it Elasticsearch or OpenSearch?", resp.Host)
	}
	return o, nil
}

// current is the template of that name in the cluster, without what the server
// adds to it; nil: there is none.
func current(ctx context.Context, doer Doer, t Template) (object, error) {
	answer, err := get(ctx, doer, "/"+t.Kind+"/"+url.PathEscape(t.Name))
	if answer == nil || err != nil {
		return nil, err
	}
	list, inside := "component_templates", "component_template"
	if t.Kind == "_index_template" {
		list, inside = "index_templates", "index_template"
	}
	all, _ := answer[list].([]any)
	for _, x := range all {
		entry, _ := x.(object)
		if entry["name"] != t.Name {
			continue
		}
		body, _ := entry[inside].(object)
		if stream, ok := body["data_stream"].(object); ok {
			// Filled in by the server.
			for _, k := range []string{"hidden", "allow_custom_routing", "timestamp_field", "failure_store"} {
				delete(stream, k)
			}
		}
		for _, k := range []string{"created_date", "created_date_millis", "modified_date", "modified_date_millis"} {
			delete(body, k)
		}
		return body, nil
	}
	return nil, nil
}
