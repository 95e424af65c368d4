package contrast

// OfAnswerDigest takes the digest of the capabilities: published vectors have no
// body.
var OfAnswerDigest = ofAnswer

// QuoteOf is the joiner of a quote's fields.
func QuoteOf(name string, data []byte) ([]byte, error) {
	q, _, err := quoteOf(name, data)
	return q, err
}
