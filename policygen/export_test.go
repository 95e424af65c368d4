package policygen

// EncodeAnnotation packs an initdata document into the value of the pod
// annotation: base64 of gzip. Decoders accept any compressor's bytes, and only
// the unpacked text is attested.
func EncodeAnnotation(text []byte) string { return new(annotator).encode(text) }
