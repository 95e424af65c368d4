package config

// Limits of inputs that are read whole, in bytes.
const (
	YAMLLimit     = 16 << 20
	JSONLimit     = 16 << 20
	FirmwareLimit = 64 << 20
	ComposeLimit  = 16 << 20
	TablesLimit   = 4 << 20
	MetadataLimit = 1 << 20
	ReplyLimit    = 16 << 20 // of a guest agent
)
