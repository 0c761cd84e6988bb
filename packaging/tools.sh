# Where the tools of packaging/ come from. To be sourced: it defines `tool NAME VERSION`, which prints the path of a cargo
# program, built once below target/ from crates.io. Without optimisation: building it takes longer than running it ever will.
tool() {
    local name=$1 version=$2
    local root=${CARGO_TARGET_DIR:-target}/packaging-tools/$name-$version
    if [ ! -x "$root/bin/$name" ]; then
        echo "building $name $version" >&2
        # Its own target folder: what the project's was built with must not change for it.
        CARGO_TARGET_DIR=$root/target cargo install --quiet --locked --debug --root "$root" "$name@$version" >&2 || {
            echo "packaging: $name $version could not be built from crates.io (is it within reach?)" >&2
            return 1
        }
        rm -rf "$root/target"
    fi
    echo "$root/bin/$name"
}
