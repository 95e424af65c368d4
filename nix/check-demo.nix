# Runs the demo, and the release gate on it, as the sandbox has them: no network,
# no home, no cache, a store that cannot be written. They must agree, and a
# tampered input must be found, and shut the gate.
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

  retally demo --quiet --dir published
  cat > gate.yaml <<END
  version: 1
  basis:
  - {keys: 'image/**', at_least: recomputed}
  permit:
  - {rule: test-root, reason: the demo has no processor, owner: retally, expires: 2035-01-01}
  END
  code=0
  retally gate -f published/retally.yaml --policy gate.yaml > $out/gate.txt || code=$?
  if [ $code -ne 0 ]; then
    cat $out/gate.txt >&2
    echo "retally gate: exit code $code, want 0" >&2
    exit 1
  fi
  code=0
  retally gate -f published/retally.yaml > $out/gate-without-policy.txt || code=$?
  if [ $code -ne 3 ]; then
    cat $out/gate-without-policy.txt >&2
    echo "retally gate without a policy: exit code $code, want 3" >&2
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
