# Template of the Homebrew formula. `packaging/homebrew/render REPOSITORY ARCHIVE` fills in what stands between @s; the result
# goes to Formula/kserve-local.rb of a tap.
class KserveLocal < Formula
  desc "KServe on one machine, without Kubernetes"
  homepage "@REPOSITORY@"
  url "@REPOSITORY@/archive/refs/tags/v@VERSION@.tar.gz"
  sha256 "@SHA256@"
  license "Apache-2.0"
  head "@REPOSITORY@.git", branch: "main"

  depends_on "rust" => :build

  def install
    # The archive of a tag has no git; its commit is in packaging/commit.txt.
    system "cargo", "install", *std_cargo_args
    system bin/"kserve-local", "man", buildpath/"man"
    man1.install Dir["man/*.1"]
    generate_completions_from_executable(bin/"kserve-local", "completion", shells: [:bash, :zsh, :fish])
    pkgshare.install "runtimes", "examples"
    doc.install Dir["docs/*.md"]
  end

  # `brew services start kserve-local`: under launchd on macOS, under systemd on Linux. Restarting it leaves models running.
  service do
    run [opt_bin/"kserve-local", "serve"]
    keep_alive successful_exit: false
    environment_variables NO_COLOR: "1", PATH: std_service_path_env
    log_path var/"log/kserve-local.log"
    error_log_path var/"log/kserve-local.log"
    working_dir Dir.home
  end

  def caveats
    <<~EOS
      Manifests go to ~/.kserve-local/services. Models run in Docker (Docker Desktop, Colima, Podman), or as processes where
      there is none: `kserve-local doctor` looks at this machine.
      Stopping the service leaves models running; `kserve-local down` stops them.
    EOS
  end

  test do
    (testpath/"iris.yaml").write <<~YAML
      apiVersion: serving.kserve.io/v1beta1
      kind: InferenceService
      metadata:
        name: iris
      spec:
        predictor:
          model:
            modelFormat:
              name: sklearn
            storageUri: s3://models/iris
    YAML
    assert_match version.to_s, shell_output("#{bin}/kserve-local version")
    assert_match "kserve-sklearnserver", shell_output("#{bin}/kserve-local runtimes explain -f iris.yaml")
    # Nothing really runs with this engine; everything else does.
    (testpath/"test.sh").write "kserve-local get isvc iris -o name"
    ENV["PATH"] = "#{bin}:#{ENV["PATH"]}"
    ENV["KSERVE_LOCAL_ENGINE"] = "memory"
    system bin/"kserve-local", "validate", "iris.yaml"
    system bin/"kserve-local", "run", "-f", "iris.yaml", "--", "sh", "test.sh"
  end
end
