// swift-tools-version:5.5
import PackageDescription

let package = Package(
    name: "NocturnePush",
    platforms: [.iOS(.v14), .macOS(.v11)],
    products: [.library(name: "NocturnePush", targets: ["NocturnePush"])],
    targets: [
        .target(name: "NocturnePush"),
        .testTarget(name: "NocturnePushTests", dependencies: ["NocturnePush"]),
    ]
)
