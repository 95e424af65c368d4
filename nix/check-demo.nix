# Runs the demo as the sandbox has it: no network, no home, no cache, a store
# that cannot be written. It must agree, and a tampered input must be found.
{ runCommand, retally }:

runCommand "retally-demo" { nativeBuildInputs = [ retally ]; } ''
  unset HOME XDG_CACHE_HOME RETALLY_CACHE
  mkdir -p $out

  code=0
  retally demo > $out/demo.txt || code=$?
  if [ $code -ne 0 ]; then
    cat $out/demo.txt >&2
    echo "retally demo: exit code $code, want 0" >&2
    exit 1
  fi

  code=0
  retally demo --tamper image > $out/tamper-image.txt || code=$?
  if [ $code -ne 1 ]; then
    cat $out/tamper-image.txt >&2
    echo "retally demo --tamper image: exit code $code, want 1" >&2
    exit 1
  fi
''
