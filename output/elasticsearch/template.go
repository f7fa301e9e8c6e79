package elasticsearch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// This file says how the fields that the program adds are mapped. Its rules: what
// is searched, counted or learned from is typed; the rest stays in the source
// alone; nothing of the user's own fields is touched; and a hundred configured
// fields stay under the thousand that an index may map.

const (
	// ComponentName is the component template with the mapping of what is added.
	ComponentName = "vtsidecar@mappings"
	// TemplateName is the index template of the streams that are the program's own.
	TemplateName = "logs-vtsidecar"

	managedBy = "vtsidecar"
)

type object = map[string]any

// The types that both engines have.
var (
	keyword = object{"type": "keyword", "ignore_above": 1024} // longer values stay in the source, and refuse no document
	long    = object{"type": "long"}
	date    = object{"type": "date"}
	boolean = object{"type": "boolean"}
	address = object{"type": "ip"}
	words   = object{"type": "text", "norms": false}
)

func properties(of object) object { return object{"properties": of} }

// partFields are the fields of a part that are mapped: about what a rule, a
// dashboard or a model asks. The others are in the source.
var partFields = object{
	"value": keyword, "type": keyword, "result": keyword, "is_malicious": boolean, "status": keyword, "positives": long,
}

// Template is a component or an index template, as its PUT takes it.
type Template struct {
	Kind string // "_component_template" or "_index_template"
	Name string
	Body map[string]any
}

// Templates are the templates for an enrichment whose parts have these names
// (dotted, as they stand under arcanna.ioc).
func Templates(parts []string) (component, index Template) {
	component = Template{Kind: "_component_template", Name: ComponentName, Body: object{
		"template": object{"mappings": object{
			"dynamic_templates": partTemplates(parts),
			"properties":        addedFields(),
		}},
	}}
	index = Template{Kind: "_index_template", Name: TemplateName, Body: object{
		"index_patterns": []any{"logs-vtsidecar-*"},
		"data_stream":    object{},
		"priority":       200, // above logs-*-*, which Elasticsearch comes with
		"composed_of":    []any{ComponentName},
		"template": object{
			"settings": object{"index": object{"mapping": object{"total_fields": object{"limit": "2000"}}}},
			"mappings": object{
				"date_detection": false,
				"dynamic_templates": []any{
					object{"vtsidecar_other_strings": object{"match_mapping_type": "string", "mapping": keyword}},
				},
				"properties": commonFields(),
			},
		},
	}}
	for _, t := range []*Template{&component, &index} {
		text, _ := json.Marshal(t.Body) // maps are written in order
		sum := sha256.Sum256(text)
		t.Body["_meta"] = object{"managed_by": managedBy, "description": "Fields of vtsidecar", "content": hex.EncodeToString(sum[:8])}
	}
	return component, index
}

// partTemplates map a part when the first one comes: the object with the fields
// that are wanted of it, and no others. A name that no template knows, since it
// was configured later, is mapped by the last ones.
func partTemplates(parts []string) []any {
	var all []any
	parts = slices.Clone(parts)
	slices.Sort(parts)
	for _, name := range slices.Compact(parts) {
		all = append(all, object{"vtsidecar_part_" + name: object{
			"path_match":         "arcanna.ioc." + name,
			"match_mapping_type": "object",
			"mapping":            object{"type": "object", "dynamic": "false", "properties": partFields},
		}})
	}
	return append(all,
		object{"vtsidecar_strings": object{"path_match": "arcanna.ioc.*", "match_mapping_type": "string", "mapping": keyword}},
		// A first value that looks like a date must not make a date of its field.
		object{"vtsidecar_dates": object{"path_match": "arcanna.ioc.*", "match_mapping_type": "date", "mapping": keyword}},
		object{"vtsidecar_numbers": object{"path_match": "arcanna.ioc.*", "match_mapping_type": "long", "mapping": long}},
	)
}

func addedFields() object {
	return object{
		// Also where the index's own mapping takes nothing new, dynamic: false or strict.
		"arcanna": properties(object{"ioc": object{"dynamic": "true", "properties": object{
			"event_id":     keyword,
			"schema":       long,
			"is_malicious": boolean,
			"global": object{"dynamic": "false", "properties": object{
				"result": keyword, "is_malicious": boolean, "status": keyword, "score": long,
				"malicious_count": long, "suspicious_count": long, "unknown_count": long, "checked_count": long, "skipped_count": long,
				"malicious_fields": keyword, "malicious_values": keyword, "types": keyword, "providers": keyword, "threat_labels": keyword,
				"explanation": words, "late": boolean, "updated_at": date,
			}},
			"indicators": object{"type": "object", "enabled": false},
		}}}),
		"threat": properties(object{"enrichments": object{"type": "nested", "properties": object{
			"indicator": properties(object{
				"type": keyword, "ip": address, "provider": keyword, "confidence": keyword, "scanner_stats": long, "reference": keyword, "description": keyword,
				"first_seen": date, "last_seen": date, "modified_at": date,
				"url":  properties(object{"full": keyword, "domain": keyword}),
				"file": properties(object{"hash": properties(object{"md5": keyword, "sha1": keyword, "sha256": keyword})}),
				"as":   properties(object{"number": long, "organization": properties(object{"name": keyword})}),
				"geo":  properties(object{"country_iso_code": keyword}),
			}),
			"feed":    properties(object{"name": keyword}),
			"matched": properties(object{"atomic": keyword, "field": keyword, "id": keyword, "index": keyword, "type": keyword, "occurred": date}),
		}}}),
		"related": properties(object{"ip": address, "hash": keyword, "hosts": keyword}),
	}
}

// commonFields are the basics of the Elastic Common Schema that events of any
// Beat have; what else they have is mapped as it comes.
func commonFields() object {
	return object{
		"@timestamp":  date,
		"message":     words,
		"ecs":         properties(object{"version": keyword}),
		"data_stream": properties(object{"type": keyword, "dataset": keyword, "namespace": keyword}),
		"agent":       properties(object{"name": keyword, "type": keyword, "version": keyword, "id": keyword}),
		"host":        properties(object{"name": keyword, "hostname": keyword, "ip": address}),
		"event":       properties(object{"action": keyword, "category": keyword, "code": keyword, "created": date, "dataset": keyword, "ingested": date, "kind": keyword, "module": keyword, "outcome": keyword}),
		"log":         properties(object{"level": keyword, "offset": long, "file": properties(object{"path": keyword})}),
		"source":      properties(object{"ip": address, "port": long}),
		"destination": properties(object{"ip": address, "port": long}),
	}
}

// leaves calls each for every field of a mapping's properties that has a type.
func leaves(prefix string, props object, each func(path string, field object)) {
	for name, v := range props {
		field, ok := v.(object)
		if !ok {
			continue
		}
		path := prefix + name
		if t, _ := field["type"].(string); t != "" && t != "object" {
			each(path, field)
		}
		if below, ok := field["properties"].(object); ok {
			leaves(path+".", below, each)
		}
	}
}

// wanted are the types of the fields that are added, by path.
func wanted(parts []string) map[string]string {
	types := map[string]string{}
	add := func(path string, field object) { types[path] = field["type"].(string) }
	leaves("", addedFields(), add)
	for _, name := range parts {
		leaves("arcanna.ioc."+name+".", partFields, add)
	}
	types["threat.enrichments"] = "nested"
	return types
}

// fits reports whether a field of type have does for one that should be want.
func fits(have, want string) bool {
	switch want {
	case "keyword":
		return slices.Contains([]string{"keyword", "wildcard", "constant_keyword", "text", "match_only_text", "flattened", "flat_object"}, have)
	case "text":
		return slices.Contains([]string{"text", "match_only_text", "keyword", "wildcard"}, have)
	case "long":
		return slices.Contains([]string{"long", "integer", "short", "unsigned_long", "float", "double", "half_float", "scaled_float"}, have)
	case "date":
		return have == "date" || have == "date_nanos"
	case "ip":
		return have == "ip" || have == "keyword"
	}
	return have == want
}
