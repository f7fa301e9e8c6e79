package enrich

// Footprint is what a Work has allocated, and what it has reserved for that.
func (w *Work) Footprint() (size, held int64) {
	if w.s == nil {
		return 0, w.held
	}
	return w.s.size(), w.held
}

// AppendString is how documents write strings.
func AppendString(dst []byte, s string) []byte { return appendString(dst, s) }
