#!/usr/bin/env bash
# Makes .venv and installs gen_jax into it where that is not done yet, then runs the main job:
#   ./run.sh                      python -m gen_jax.main --config=configs/vae.py
#   ./run.sh FLAGS                the same with these flags, --config=... among them or not
#   ./run.sh test                 the tests of every day, on all cores
#   ./run.sh test all             all tests
#   ./run.sh test [all] FLAGS     the same with these flags of pytest, or of one file alone
# JAX_PLATFORM_EXTRA=cuda13 (or cuda12, tpu) installs JAX for that hardware; PYTHON names the
# interpreter to make .venv with.
set -euo pipefail
cd "$(dirname "$0")"

extras=${JAX_PLATFORM_EXTRA:-}
[ "${1:-}" = test ] && extras=${extras:+$extras,}test
wanted="$extras $(cksum setup.cfg)"
for have in .venv/installed-*; do  # an installation with more extras serves as well
    [ -f "$have" ] && [ "$(cat "$have")" = "$wanted" ] && ready=yes
done
if [ -z "${ready:-}" ]; then
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo 'gen_jax needs Python 3.11 or newer; set PYTHON to one and remove .venv' >&2; exit 1; }
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --editable ".${extras:+[$extras]}"
    echo "$wanted" > ".venv/installed-${extras:-plain}"
fi

if [ "${1:-}" = test ]; then
    shift
    [ "${1:-}" != all ] || { shift; set -- --all "$@"; }
    exec .venv/bin/python -m pytest "$@"
fi
case " $* " in
    *' --config='*|*' --config '*|*' --help '*|*' -h '*) ;;
    *' --mode'[=\ ][!t]*' --workdir'*|*' --workdir'*' --mode'[=\ ][!t]*) ;;  # a run's own
    *) set -- --config=configs/vae.py "$@" ;;
esac
exec .venv/bin/python -m gen_jax.main "$@"
