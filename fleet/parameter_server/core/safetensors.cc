#include "safetensors.h"

#include <cstring>
#include <new>

namespace fleet {

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// Reads the little of JSON that a header is made of: objects, strings, arrays of unsigned integers.
class Reader {
 public:
  explicit Reader(const std::string& json) : json_(json) {}

  bool failed() const { return failed_; }
  size_t at() const { return at_; }
  bool at_end() {
    skip_space();
    return at_ == json_.size();
  }

  bool accept(char c) {
    skip_space();
    if (failed_ || at_ == json_.size() || json_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) failed_ = true;
  }

  std::string string() {
    expect('"');
    std::string out;
    while (!failed_ && at_ < json_.size() && json_[at_] != '"') {
      char c = json_[at_++];
      if (c == '\\') {
        const char* plain = at_ < json_.size() ? std::strchr("\"\\/", json_[at_]) : nullptr;
        if (plain == nullptr || *plain == '\0') {  // no header of ours needs the other escapes
          failed_ = true;
          break;
        }
        c = json_[at_++];
      }
      out += c;
    }
    expect_here('"');
    return out;
  }

  uint64_t number() {
    skip_space();
    const size_t begin = at_;
    uint64_t value = 0;
    while (at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9' && at_ - begin < 19) {
      value = value * 10 + static_cast<uint64_t>(json_[at_++] - '0');
    }
    if (at_ == begin) failed_ = true;
    return value;
  }

  std::vector<uint64_t> numbers() {
    std::vector<uint64_t> out;
    expect('[');
    if (accept(']')) return out;
    do {
      out.push_back(number());
    } while (!failed_ && accept(','));
    expect(']');
    return out;
  }

  // Calls member(name) for each member of an object; member reads the value.
  template <class Member>
  void object(const Member& member) {
    expect('{');
    if (failed_ || accept('}')) return;
    do {
      const std::string name = string();
      expect(':');
      if (!failed_) member(name);
    } while (!failed_ && accept(','));
    expect('}');
  }

  void fail() { failed_ = true; }

 private:
  void skip_space() {
    while (at_ < json_.size() && std::strchr(" \t\r\n", json_[at_]) != nullptr && json_[at_] != '\0') ++at_;
  }
  void expect_here(char c) {
    if (failed_ || at_ == json_.size() || json_[at_] != c) {
      failed_ = true;
    } else {
      ++at_;
    }
  }

  const std::string& json_;
  size_t at_ = 0;
  bool failed_ = false;
};

Tensor read_tensor(Reader& reader) {
  Tensor tensor;
  reader.object([&](const std::string& field) {
    if (field == "dtype") {
      tensor.dtype = reader.string();
    } else if (field == "shape") {
      tensor.shape = reader.numbers();
    } else if (field == "data_offsets") {
      const std::vector<uint64_t> offsets = reader.numbers();
      if (offsets.size() != 2) return reader.fail();
      tensor.begin = offsets[0];
      tensor.end = offsets[1];
    } else {
      reader.fail();
    }
  });
  return tensor;
}

}  // namespace

std::string SafetensorsHeader::text() const {
  std::string json = "{\"__metadata__\":{";
  const char* comma = "";
  for (const auto& [name, value] : metadata) {
    json += comma + quoted(name) + ":" + quoted(value);
    comma = ",";
  }
  json += "}";
  for (const auto& [name, tensor] : tensors) {
    json += "," + quoted(name) + ":{\"dtype\":" + quoted(tensor.dtype) + ",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) json += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
    json += "],\"data_offsets\":[" + std::to_string(tensor.begin) + "," + std::to_string(tensor.end) + "]}";
  }
  json += "}";
  while ((json.size() + 8) % 64 != 0) json += ' ';
  uint64_t length = json.size();
  std::string prefix(8, '\0');
  for (char& byte : prefix) {
    byte = static_cast<char>(length & 0xff);
    length >>= 8;
  }
  return prefix + json;
}

Status SafetensorsHeader::parse(const std::string& json, SafetensorsHeader* header) noexcept try {
  Reader reader(json);
  reader.object([&](const std::string& name) {
    if (name == "__metadata__") {
      reader.object([&](const std::string& key) { header->metadata[key] = reader.string(); });
    } else if (!header->tensors.emplace(name, read_tensor(reader)).second) {
      reader.fail();
    }
  });
  if (reader.failed() || !reader.at_end()) {
    return Status::damaged("the header is not that of a safetensors file (byte " + std::to_string(8 + reader.at()) + ")");
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_memory("the system has no memory for a header");
}

}  // namespace fleet
