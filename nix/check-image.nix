# retally recounts its own image: every byte of it is read, every digest computed.
{
  runCommand,
  retally,
  image,
}:

runCommand "retally-image" { nativeBuildInputs = [ retally ]; } ''
  unset HOME XDG_CACHE_HOME RETALLY_CACHE
  mkdir -p $out
  retally image digest ${image} > $out/image.txt
  retally nix hash ${image} > $out/nar.txt
''
