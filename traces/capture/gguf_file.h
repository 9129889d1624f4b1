#pragma once
/// \file
/// Metadata and weights of a GGUF model file, read beside the engine: the engine's own API shows neither.

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct gguf_context;
struct ggml_context;

namespace evictsim::traces::capture {

/// A weight converted to float32, row-major; a vector has one row.
struct Weight {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<float> values;
};

/// One open GGUF file. Opening reads the metadata; tensors are read and dequantised on demand.
class GgufFile {
 public:
  /// Throws Error (file_not_found, permission_denied, invalid_value when it is no GGUF file, unsupported when split).
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// `general.architecture`, for example "llama".
  [[nodiscard]] const std::string& architecture() const { return architecture_; }

  /// Metadata values; nullopt when the key is absent or of another kind. `number` takes any integer or float.
  [[nodiscard]] std::optional<double> number(const std::string& key) const;
  [[nodiscard]] std::optional<std::string> text(const std::string& key) const;
  /// An array of bool.
  [[nodiscard]] std::optional<std::vector<bool>> flags(const std::string& key) const;
  /// The key below the architecture's prefix: "attention.scale" reads "llama.attention.scale".
  [[nodiscard]] std::optional<double> model_number(const std::string& key) const;

  /// A tensor by name, float32; nullopt when absent. Throws Error(io_failure) when the file is cut short.
  [[nodiscard]] std::optional<Weight> read(const std::string& tensor) const;
  /// Whether every matrix of the file is float32, so that the engine computes without quantising activations.
  [[nodiscard]] bool is_float32() const;

 private:
  std::filesystem::path path_;
  std::string architecture_;
  std::unique_ptr<gguf_context, void (*)(gguf_context*)> file_;
  std::unique_ptr<ggml_context, void (*)(ggml_context*)> tensors_;
};

}  // namespace evictsim::traces::capture
